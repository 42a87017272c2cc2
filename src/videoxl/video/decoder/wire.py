"""Messages between this process and a decoder process: a fixed header, JSON for facts, raw bytes for numbers.

Nothing is unpickled, and every size is checked before memory is taken for it, so a decoder process that was taken
over by a hostile file can at worst send wrong pictures.
"""

from __future__ import annotations

import json
import os
import select
import struct
from typing import Any

HEADER = struct.Struct("<4sIQ")
MAGIC = b"vxl1"
MOST_JSON = 64 * 2**20
MOST_PAYLOAD = 2**30

Message = tuple[dict[str, Any], bytearray]


class WireClosedError(Exception):
    """The other end is gone."""


class WireGarbageError(Exception):
    """Something that is no message came in."""


class WireTimeoutError(Exception):
    """Nothing came in for the allowed time."""


def send(fd: int, facts: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write one message, waiting while the pipe is full. Raises ``WireClosedError``."""
    text = json.dumps(facts).encode()
    try:
        _write_all(fd, HEADER.pack(MAGIC, len(text), len(payload)) + text)
        _write_all(fd, payload)
    except BrokenPipeError:
        raise WireClosedError from None


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(fd, view) :]


def receive(fd: int, silence_seconds: float | None = None) -> Message:
    """Read one message. Raises ``WireTimeoutError`` after that silence, ``WireClosedError``, ``WireGarbageError``."""
    magic, text_size, payload_size = HEADER.unpack(_read_exactly(fd, HEADER.size, silence_seconds))
    if magic != MAGIC or text_size > MOST_JSON or payload_size > MOST_PAYLOAD:
        raise WireGarbageError(f"unexpected header {magic!r} {text_size} {payload_size}")
    try:
        facts = json.loads(_read_exactly(fd, text_size, silence_seconds))
    except ValueError as error:
        raise WireGarbageError(f"unreadable message: {error}") from None
    if not isinstance(facts, dict):
        raise WireGarbageError("a message must be a JSON object")
    return facts, _read_exactly(fd, payload_size, silence_seconds)


def _read_exactly(fd: int, size: int, silence_seconds: float | None) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while len(view):
        if silence_seconds is not None and not poller.poll(silence_seconds * 1000):
            raise WireTimeoutError
        count = os.readv(fd, [view])
        if count == 0:
            raise WireClosedError
        view = view[count:]
    return data
