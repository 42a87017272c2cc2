"""Mixtures of files of records, which of their records are used, and files of JSON (LLaVA's JSON, JSONL and YAML).

Records stay on disk: of a file only the places of its records are held, and a record is parsed when it is asked for.
"""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videoxl.errors import TrainingDataError
from videoxl.json_lines import BOM, WHITESPACE, parse_object
from videoxl.training.data.records import MAX_RECORD_BYTES, InPlace, Opener, Records

# a whole string, a quote that opens none, or a bracket
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)
MOST_PERCENT = 10_000
_STRATEGY = re.compile(r"(first|end|random):(\d+)(%?)")


@dataclass(frozen=True)
class Source:
    """One file of records, or several under one name."""

    path: str
    """A ``.json`` list of records, or ``.jsonl`` with a record on every line; ``.parquet``; ``.tar``; a folder, or a
    pattern: see :func:`videoxl.training.data.open_records.open_records`."""
    sampling: str = "all"
    """Which records are used: ``all``; ``first:N``, ``end:N`` or ``random:N`` of them, or ``N%`` (rounded up). Above
    100 % records come more than once in a pass."""
    media_folder: str | None = None
    """The folder of its ``image`` and ``video`` files. Default: the configuration's, else that of ``path``."""

    def __post_init__(self) -> None:
        for name in ("path", "sampling"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be text, got {getattr(self, name)!r}")
        choose_records(self.sampling, 0, seed=0)


def choose_records(sampling: str, count: int, *, seed: int) -> np.ndarray:
    """Numbers of the records that a sampling strategy takes of ``count``, ascending: int64.

    ``random`` draws without repetition, the same for the same ``seed`` and ``count``. ``250%`` takes all twice, and
    half of them once more. Raises ``ValueError`` for an unknown strategy, and for more than 10,000 %.
    """
    if sampling == "all":
        return np.arange(count)
    match = _STRATEGY.fullmatch(sampling)
    if match is None or (match[3] and int(match[2]) > MOST_PERCENT):
        raise ValueError(f"sampling must be all, or first:, end: or random: with N or N%, got {sampling!r}")
    if match[3] and int(match[2]) > 100:
        whole, rest = divmod(int(match[2]), 100)
        more = choose_records(f"{match[1]}:{rest}%", count, seed=seed)
        return np.sort(np.concatenate([np.tile(np.arange(count), whole), more]))
    wanted = math.ceil(int(match[2]) * count / 100) if match[3] else min(int(match[2]), count)
    if match[1] == "first":
        return np.arange(wanted)
    if match[1] == "end":
        return np.arange(count - wanted, count)
    return np.sort(np.random.default_rng([seed, count]).permutation(count)[:wanted])


def load_mixture(path: str | os.PathLike[str]) -> tuple[Source, ...]:
    """The sources of a YAML mixture: ``datasets: [{json_path, sampling_strategy, media_folder}]`` (LLaVA's keys).

    ``json_path`` names any kind of file. Relative paths are relative to the mixture's folder. Raises
    :class:`TrainingDataError`.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise TrainingDataError(f"{path} cannot be read as a YAML mixture: {error}") from error
    entries = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise TrainingDataError(f"{path} must hold 'datasets', a list of entries with json_path, and not be empty")
    return tuple(_source(Path(path), number, entry) for number, entry in enumerate(entries, start=1))


def _source(mixture: Path, number: int, entry: object) -> Source:
    known = {"json_path", "sampling_strategy", "media_folder", "source"}  # the last, an address, is for people
    if not isinstance(entry, dict) or not isinstance(entry.get("json_path"), str) or set(entry) - known:
        raise TrainingDataError(
            f"{mixture}: entry {number} must name json_path, and may name sampling_strategy and media_folder; got "
            f"{entry!r:.200}"
        )
    folder = entry.get("media_folder")
    try:
        return Source(
            _beside(mixture, entry["json_path"]),
            entry.get("sampling_strategy", "all"),
            None if folder is None else _beside(mixture, folder),
        )
    except (ValueError, TypeError) as error:
        raise TrainingDataError(f"{mixture}: entry {number}: {error}") from error


def _beside(mixture: Path, name: str) -> str:
    """A path relative to the mixture's folder; a URL is itself."""
    if not isinstance(name, str):
        raise TypeError(f"media_folder must be a text, got {name!r:.60}")
    return name if "://" in name else str(mixture.parent / name)


class RecordFile(Records):
    """The records of one file of JSON."""

    def __init__(self, path: str | os.PathLike[str], opened: Opener | None = None, folder: str | None = None) -> None:
        """Raises :class:`TrainingDataError` when the file cannot be read or is no list of records."""
        self.path = os.fspath(path)
        self.folder = os.path.dirname(self.path) if folder is None else folder
        self.opened = opened or InPlace(self.path)
        try:
            with self.opened() as local, open(local, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == 0:
                    raise TrainingDataError(f"{self.path} is empty: give a JSON list of records, or JSON lines")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    self.is_list = _is_list(self.path, data)
                    places = list(_list_places(self.path, data) if self.is_list else _line_places(data))
        except (OSError, ValueError) as error:
            raise TrainingDataError(f"{self.path} cannot be read ({error}); check the path") from error
        self.places_N3 = np.array(places, dtype=np.int64).reshape(-1, 3)
        """Begin and end of each record in bytes, and its line (JSON lines) or its number, from 1."""

    def __len__(self) -> int:
        return len(self.places_N3)

    def name(self, number: int) -> str:
        """``train.jsonl:17`` is its 17th line, ``train.json#17`` its 17th record."""
        return f"{self.file_name}{'#' if self.is_list else ':'}{int(self.places_N3[number, 2])}"

    def read(self, number: int) -> Mapping[str, object]:
        begin, end = (int(place) for place in self.places_N3[number, :2])
        if end - begin > MAX_RECORD_BYTES:
            raise TrainingDataError(f"{self.name(number)} has {end - begin:,} bytes, most are {MAX_RECORD_BYTES:,}")
        with self.opened() as local, open(local, "rb") as file:
            data = os.pread(file.fileno(), end - begin, begin)
        if len(data) < end - begin:
            raise TrainingDataError(f"{self.name(number)}: the file has become shorter since training began")
        return _parse(self.name(number), data)


def _parse(name: str, data: bytes) -> Mapping[str, object]:
    try:
        return parse_object(data)
    except ValueError as error:
        raise TrainingDataError(f"{name} is {error}; a record is an object with 'conversations'") from error


def _is_list(path: str, data: mmap.mmap) -> bool:
    """Whether the file is one list; if not, it must be JSON lines."""
    if path.lower().endswith(".jsonl"):
        return False
    head = data[:4096].removeprefix(BOM).lstrip(WHITESPACE)
    if not head.startswith(b"[") and path.lower().endswith(".json"):
        raise TrainingDataError(f"{path} must be a list of records, [{{...}}, ...]; name a file of JSON lines .jsonl")
    return head.startswith(b"[")


def _line_places(data: mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """Begin, end and number of every line that is not blank."""
    begin, number = len(BOM) if data[: len(BOM)] == BOM else 0, 1
    while begin < len(data):
        found = data.find(b"\n", begin)
        end = len(data) if found < 0 else found
        if data[begin : min(end, begin + 4096)].strip(WHITESPACE) or end - begin > 4096:
            yield begin, end, number
        begin, number = end + 1, number + 1


def _list_places(path: str, data: mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """Begin, end and number of every object of a list. Nothing is parsed, so a broken record costs only itself."""
    depth, begin, number, closed = 0, 0, 0, False
    last = len(BOM) if data[: len(BOM)] == BOM else 0  # end of what is accounted for
    for token in _TOKEN.finditer(data):
        kind, at = token[0][:1], token.start()
        if token[0] == b'"':
            raise _no_list(path, data, at, "a text without an end")
        if closed or (depth < 2 and kind == b'"'):
            raise _no_list(path, data, at, "something that is no record")
        if depth < 2:
            expected = b"," if number and kind != b"]" else b""
            if data[last:at].strip(WHITESPACE) != expected:
                raise _no_list(path, data, last, "something that is no record")
            begin, last = at, token.end()
        if kind == b'"':
            continue
        depth += 1 if kind in b"[{" else -1
        if depth == 1 and kind in b"]}":
            number, last = number + 1, token.end()
            yield begin, last, number
        closed = depth == 0
    if not closed or data[last:].strip(WHITESPACE):
        raise _no_list(path, data, last, "more behind the list" if closed else "no end of the list")


def _no_list(path: str, data: mmap.mmap, at: int, found: str) -> TrainingDataError:
    return TrainingDataError(
        f"{path} is no list of records: {found} at byte {at:,}, {data[at : at + 40]!r}; it must be "
        "[{...}, {...}], or JSON lines in a file named .jsonl"
    )
