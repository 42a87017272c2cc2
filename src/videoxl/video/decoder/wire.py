"""Bytes between this program and a decoder process: a fixed header, a JSON text, raw numbers.

Nothing is unpickled, and every size is checked before memory is taken for it, so a decoder process that was taken
over by a hostile file can at worst send wrong pictures. ``multiprocessing.connection`` is not used: it waits without
a limit for the rest of a message, so a process that stops in the middle of one would stop this program too.
"""

from __future__ import annotations

import os
import select
import struct
import time

HEADER = struct.Struct("<4sIQ")
"""Magic number, bytes of JSON, bytes of payload."""
MAGIC = b"vxl1"
MAX_JSON_BYTES = 64 * 2**20
MAX_PAYLOAD_BYTES = 2**30


class WireClosedError(Exception):
    """The other end is closed."""


class WireGarbageError(Exception):
    """What came in is not a message."""


class WireTimeoutError(Exception):
    """Nothing came in for the allowed time."""


def send(fd: int, text: bytes, payload: bytes | memoryview = b"", timeout_seconds: float | None = None) -> None:
    """Write one message, waiting while the pipe is full.

    Raises ``WireClosedError``, or ``WireTimeoutError`` when nothing is taken out for that time; the latter needs a
    descriptor that does not block.
    """
    try:
        _write_all(fd, HEADER.pack(MAGIC, len(text), len(payload)) + text, timeout_seconds)
        _write_all(fd, payload, timeout_seconds)
    except BrokenPipeError:
        raise WireClosedError from None


def _write_all(fd: int, data: bytes | memoryview, timeout_seconds: float | None) -> None:
    view = memoryview(data)
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    while len(view):
        if timeout_seconds is not None and not poller.poll(timeout_seconds * 1000):
            raise WireTimeoutError
        view = view[os.write(fd, view) :]


def receive(
    fd: int, timeout_seconds: float | None = None, total_seconds: float | None = None
) -> tuple[bytearray, bytearray]:
    """Read one message: (text, payload).

    Raises ``WireTimeoutError`` when nothing comes in for ``timeout_seconds``, or when not all of it has come after
    ``total_seconds``; ``WireClosedError``, ``WireGarbageError``.
    """
    deadline = None if total_seconds is None else time.monotonic() + total_seconds
    magic, text_size, payload_size = HEADER.unpack(_read_exactly(fd, HEADER.size, timeout_seconds, deadline))
    if magic != MAGIC or text_size > MAX_JSON_BYTES or payload_size > MAX_PAYLOAD_BYTES:
        raise WireGarbageError(f"unexpected header {magic!r} {text_size} {payload_size}")
    text = _read_exactly(fd, text_size, timeout_seconds, deadline)
    return text, _read_exactly(fd, payload_size, timeout_seconds, deadline)


def _read_exactly(fd: int, size: int, timeout_seconds: float | None, deadline: float | None) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while len(view):
        _wait(poller, timeout_seconds, deadline)
        count = os.readv(fd, [view])
        if count == 0:
            raise WireClosedError
        view = view[count:]
    return data


def _wait(poller: select.poll, timeout_seconds: float | None, deadline: float | None) -> None:
    waits = [] if timeout_seconds is None else [timeout_seconds]
    if deadline is not None:
        waits.append(max(0.0, deadline - time.monotonic()))
    if waits and not poller.poll(min(waits) * 1000):
        raise WireTimeoutError
