"""One question of a benchmark, and the records of annotation files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from videoxl.errors import EvaluationError, MissingDependencyError
from videoxl.evaluation.annotations import parse_json, read_text
from videoxl.evaluation.choices import LETTERS
from videoxl.json_lines import JsonObject, read_json_lines

RECORD_FILES = (".json", ".jsonl", ".parquet")
Kind = TypeVar("Kind")
_LETTERED = re.compile(r"\s*(?:\((?P<round>[A-Z])\)|(?P<plain>[A-Z])[.:)])\s*(?P<text>.*\S)?\s*", re.DOTALL)
_OPTIONS_BEGIN = re.compile(r"\n\(?A[).:]\s")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question about one video."""

    key: str
    """Tells it from all others of its benchmark."""
    video: str
    """The video's file as the annotations call it."""
    question: str
    """The question without its options."""
    options: tuple[str, ...] = ()
    """What is offered, without letters; empty for open questions."""
    answer: str
    """The right option's letter, or the text of a right answer."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """What averages are taken over: ``{"task_type": "count"}``."""
    prompt: str = ""
    """The whole prompt, where the benchmark's files hold it."""
    whole_video: str = ""
    """For a part of a video that was cut out: the video it was cut from, in case there is no file of the part."""
    end: float | None = None
    """Where the part ends in the whole video, in seconds."""

    @property
    def letters(self) -> str:
        """The letters of its options."""
        return LETTERS[: len(self.options)]


@dataclass(frozen=True)
class Record:
    """One record of an annotation file, and where it stands."""

    value: JsonObject
    where: str

    def text(self, *names: str) -> str:
        """Return the first of the fields that holds a text or a number. Raises :class:`EvaluationError` without one."""
        for name in names:
            value = self.value.get(name)
            if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value).strip():
                return str(value)
        raise EvaluationError(f"annotations {self.where}: expected a text under {' or '.join(map(repr, names))}")

    def optional(self, name: str) -> str:
        """Return a field as text; an empty one for a missing field."""
        value = self.value.get(name)
        return "" if value is None else str(value)

    def list_of(self, name: str, kind: type[Kind]) -> list[Kind]:
        """Return a list whose entries have one type. Raises :class:`EvaluationError` for anything else."""
        value = self.value.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(one, kind) for one in value):
            raise EvaluationError(f"annotations {self.where}: expected a list of {kind.__name__} under {name!r}")
        return value

    def texts(self, *names: str) -> list[str]:
        """Return the first of the fields that is there, a list of texts or numbers; nothing if none is there.

        Raises :class:`EvaluationError` for one that is no such list.
        """
        name = next((name for name in names if self.value.get(name) is not None), None)
        if name is None:
            return []
        value = self.value[name]
        if not isinstance(value, list) or not all(isinstance(one, (str, int, float)) for one in value):
            raise self.bad(f"expected a list of texts under {name!r}, got {value!r:.80}")
        return [str(one) for one in value]

    def categories(self, *names: str) -> dict[str, str]:
        """Return the fields that averages are taken over, without those that are missing. Lists are joined."""
        found = {name: self.value.get(name) for name in names}
        return {
            name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in found.items()
            if value is not None
        }

    def bad(self, what: str) -> EvaluationError:
        """Return the error to be raised for something wrong in this record."""
        return EvaluationError(f"annotations {self.where}: {what}")


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read a JSON list, JSON lines or Parquet, or all such files of a folder in the order of their names.

    Raises :class:`EvaluationError` for what cannot be read, :class:`MissingDependencyError` for Parquet without
    ``pyarrow``.
    """
    given = Path(path)
    if given.is_dir():
        files = sorted(file for file in given.iterdir() if file.suffix in RECORD_FILES)
        if not files:
            raise EvaluationError(f"annotations {path}: the folder holds no {', '.join(RECORD_FILES)} file")
        return [record for file in files for record in read_records(file)]
    found = list(_parquet(given) if given.suffix == ".parquet" else _json(given))
    if not found:
        raise EvaluationError(f"annotations {path} hold no record")
    return found


def _parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingDependencyError(f"{path} is Parquet: pip install 'videoxl[parquet]'") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise EvaluationError(f"annotations {path} cannot be read as Parquet: {error}") from None
    yield from (Record(row, f"{path}, row {number}") for number, row in enumerate(rows))


def _json(path: Path) -> Iterator[Record]:
    text = read_text(path)
    if text.lstrip().startswith("{"):
        lines = read_json_lines(path, lambda reason: EvaluationError(f"annotations {reason}"))
        yield from (Record(value, line.place) for line, value in lines)
        return
    found = parse_json(text, path)
    if not isinstance(found, list):
        raise EvaluationError(f"annotations {path} must hold a list of records, got {type(found).__name__}")
    for number, value in enumerate(found):
        if not isinstance(value, dict):
            raise EvaluationError(f"annotations {path}, record {number} must be an object, got {type(value).__name__}")
        yield Record(value, f"{path}, record {number}")


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Return options without the letters in front of them, if all have theirs: ``A. red``, ``(B) blue``."""
    matches = [_LETTERED.fullmatch(option) for option in options]
    if all(m and (m["round"] or m["plain"]) == letter for m, letter in zip(matches, LETTERS)) and matches:
        return tuple((match["text"] or "") if match else "" for match in matches)
    return tuple(options)


def split_question(text: str) -> tuple[str, tuple[str, ...]]:
    """Split a question from the options that follow it line by line: ``Which?\\n(A) red\\n(B) blue``."""
    begin = _OPTIONS_BEGIN.search(text)
    if begin is None:
        return text, ()
    lines = [line for line in text[begin.start() + 1 :].split("\n") if line.strip()]
    options = without_letters(lines)
    return (text[: begin.start()], options) if options != tuple(lines) else (text, ())


def right_letter(record: Record, answer: str, options: Sequence[str]) -> str:
    """Return the letter of the right option, which annotations give as a letter or in its own words.

    Raises :class:`EvaluationError` for an answer that is none of the options, or several of them.
    """
    if not 0 < len(options) <= len(LETTERS):
        raise record.bad(f"a question has 1 to {len(LETTERS)} options, got {len(options)}")
    bare = answer.strip().strip("().").upper()
    if len(bare) == 1 and bare in LETTERS[: len(options)] and answer not in options:
        return bare
    plain = without_letters_of(answer)
    places = [number for number, option in enumerate(options) if option in (answer, plain)]
    if len(places) != 1:
        raise record.bad(f"the answer {answer!r} must be one of the options, once; got {list(options)}")
    return LETTERS[places[0]]


def without_letters_of(answer: str) -> str:
    """Return one option without its letter."""
    match = _LETTERED.fullmatch(answer)
    return (match["text"] or "") if match else answer


Reader = Callable[[Record], Iterator[Item]]
"""Makes items of a record."""
