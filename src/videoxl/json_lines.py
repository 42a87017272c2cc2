"""JSON lines: files that hold one JSON object on every line, in UTF-8.

All such files of the package are read and written here. Only a line feed ends a line: texts may hold U+2028, U+0085 and
the other characters that Python counts as line breaks. An empty line says nothing, and a byte order mark is no damage.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JsonObject = dict[str, Any]
"""What it holds depends on who wrote it; its reader checks that."""
Refusal = Callable[[str], Exception]
"""Makes the error of a sentence: mostly a class of :mod:`videoxl.errors`."""

BOM = b"\xef\xbb\xbf"
WHITESPACE = b" \t\r\n"


@dataclass(frozen=True)
class Line:
    """One line of a file."""

    place: str
    """``answers.jsonl, line 3``: how messages name it."""
    data: bytes
    """Its bytes without the line feed."""

    def parse(self, error: Refusal) -> JsonObject:
        """The JSON object of the line. Raises ``error`` with the place and what is wrong."""
        try:
            return parse_object(self.data)
        except ValueError as reason:
            raise error(f"{self.place} is damaged ({reason}): mend or remove that line") from None


@dataclass(frozen=True)
class Lines:
    """The lines of a file that are not empty."""

    whole: tuple[Line, ...]
    cut: Line | None = None
    """The last line, if neither a line feed nor a complete object ends it: its writer was killed."""


def split_lines(content: bytes, path: str | os.PathLike[str]) -> Lines:
    """The lines of a file's content. ``path``: its name in messages."""
    *ended, last = content.removeprefix(BOM).split(b"\n")
    named = [Line(f"{path}, line {number}", data) for number, data in enumerate((*ended, last), start=1)]
    whole = [line for line in named if line.data.strip(WHITESPACE)]
    if last.strip(WHITESPACE) and not _is_object(last):
        return Lines(tuple(whole[:-1]), cut=whole[-1])
    return Lines(tuple(whole))


def read_json_lines(
    path: str | os.PathLike[str], error: Refusal, *, drop_cut: bool = False
) -> Iterator[tuple[Line, JsonObject]]:
    """Yield the lines of a file with the objects they hold.

    Args:
        error: is raised for a file that cannot be read, and for a line that holds no object.
        drop_cut: warn of a last line that was cut, and leave it out, where its writer will write it again. By default
            it is damage as any other.
    """
    try:
        lines = split_lines(Path(path).read_bytes(), path)
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}") from reason
    for line in lines.whole:
        yield line, line.parse(error)
    if lines.cut is None:
        return
    if not drop_cut:
        lines.cut.parse(error)
    warn_of_cut(lines.cut)


def read_json(path: str | os.PathLike[str], error: Refusal) -> JsonObject:
    """The JSON object that is a whole file. Raises ``error`` for a file that cannot be read, or is none."""
    try:
        return parse_object(Path(path).read_bytes().removeprefix(BOM))
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}") from reason
    except ValueError as reason:
        raise error(f"{path} is damaged ({reason})") from None


def warn_of_cut(line: Line) -> None:
    """Say that the last line of a file is left out."""
    warnings.warn(f"{line.place} was cut off while it was written; it is left out", stacklevel=3)


def parse_object(data: bytes) -> JsonObject:
    """Parse one JSON object. Raises ``ValueError`` with the reason if it is none."""
    try:
        found = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"not a JSON object but {_KINDS.get(type(found), 'a number')}")
    return found


def dump_line(value: object) -> bytes:
    """Write a value as one line, with its line feed. Raises ``ValueError`` for a number that is not finite."""
    return encode_json(value) + b"\n"


def encode_json(value: object, *, indent: int | None = None) -> bytes:
    """Write a value as JSON in UTF-8. Half a surrogate pair, which UTF-8 cannot hold, is written as an escape.

    Raises ``ValueError`` for a number that is not finite.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, allow_nan=False).encode()


_KINDS: dict[type, str] = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def _is_object(data: bytes) -> bool:
    try:
        parse_object(data)
    except ValueError:
        return False
    return True
