"""Reads files of strangers: JSON that holds what it may hold, or an error of one line that names the file.

Model folders come from anywhere. Whatever is wrong with one is a :class:`CheckpointError`; the guard
:func:`reading` stands around the reading of such data and around nothing else.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from videoxl.errors import CheckpointError, VideoXLError

LARGEST_JSON = 500_000_000
"""Bytes of the largest JSON file that is read. A tokenizer of 150,000 tokens has 11 million."""
DEEPEST_JSON = 50
"""Levels of lists and mappings in one another. A tokenizer has about ten."""
OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
"""What an ``OSError`` may say that is no fault of a file's content."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Report any error inside as a :class:`CheckpointError` about ``what``: a file, or a part of one.

    It stands around code of other packages that takes the content of such a file, and whose errors are of any class.
    Errors of this package and of the machine (memory, disk, open files) pass.
    """
    try:
        yield
    except (VideoXLError, MemoryError):
        raise
    except BaseException as error:
        if _passes(error):
            raise
        raise CheckpointError(f"{what} cannot be used ({one_line(error)}); fetch it again") from error


def _passes(error: BaseException) -> bool:
    if not isinstance(error, Exception):  # what a panic in Rust becomes is no Exception
        return type(error).__name__ != "PanicException"
    if isinstance(error, OSError):
        return error.errno in OF_THE_MACHINE
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def one_line(error: object, most: int = 160) -> str:
    """What an error says, in one short line without control characters; for an exception, with its class."""
    text = " ".join(str(error).split()) or "no reason given"
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[: most + 1])
    text = text if len(text) <= most else f"{text[:most]}..."
    return f"{type(error).__name__}: {text}" if isinstance(error, BaseException) else text


def open_regular(path: Path) -> int:
    """A descriptor of a regular file. Raises :class:`CheckpointError` for anything else: a pipe must not block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in OF_THE_MACHINE:
            raise
        raise CheckpointError(f"{path.name} in {path.parent.name} cannot be opened ({error.strerror})") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    kind = "a folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "no regular file"
    os.close(descriptor)
    raise CheckpointError(f"{path.name} in {path.parent.name} is {kind}, where a file belongs")


def is_inside(folder: Path, path: Path) -> bool:
    """Whether a file lies in a folder when links are followed. A snapshot of the Hub's cache links to its blobs."""
    home, real = folder.resolve(), path.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    return any(place in real.parents for place in homes)


def read_json(path: Path, what: str | None = None) -> Any:
    """The content of a JSON file. ``what``: how messages call it.

    Raises :class:`CheckpointError` for what is not UTF-8 or not JSON, and for what JSON does not know or two readers
    would understand differently: NaN, infinity, a key given twice, half a surrogate pair, very deep nesting.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_JSON:
            raise CheckpointError(f"{path.name} in {path.parent.name} has {size:,} bytes: too many for a JSON file")
        return parse_json(file.read(), what or f"{path.name} of {path.parent.name}")


def parse_json(data: bytes, what: str) -> Any:
    """See :func:`read_json`."""
    try:
        text = data.decode()
        found = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
        _check_depth(found)
        if "\\ud" in text.lower():
            _check_texts(found)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else one_line(str(error))
        raise CheckpointError(f"{what} is not valid JSON ({reason}); fetch it again") from None
    return found


def read_json_object(path: Path, what: str | None = None) -> dict[str, Any]:
    """:func:`read_json` of a file that must hold a mapping."""
    found = read_json(path, what)
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{what or f'{path.name} of {path.parent.name}'} holds a {type(found).__name__}, "
            "where a mapping belongs; fetch it again"
        )
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _check_depth(value: object) -> None:
    level, depth = [value], 0
    while level:
        if depth > DEEPEST_JSON:
            raise ValueError(f"more than {DEEPEST_JSON} levels of nesting")
        held = [
            list(item.values()) if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))
        ]
        level, depth = [inner for items in held for inner in items if isinstance(inner, (dict, list))], depth + 1


def _check_texts(value: object) -> None:
    if isinstance(value, str):
        if _LONE_SURROGATE.search(value):
            raise ValueError("a text holds half a surrogate pair")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_texts(key)
            _check_texts(item)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)
