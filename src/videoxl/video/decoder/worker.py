"""The decoder process: one file, one descriptor, hard limits, no torch.

It is forked by :mod:`videoxl.video.decoder.fork_server` with three descriptors: the file, commands in, messages out.
Damaged and hostile files can hang, crash or swell a decoder; here that costs a process, not the program.

Commands: ``open`` (once), then any number of ``read``. A newer command ends the one at work. The parent closing its
end ends the process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from videoxl.errors import MissingDependencyError, VideoError
from videoxl.video.decoder import wire
from videoxl.video.info import LEAST_MEMORY, VideoLimits

if TYPE_CHECKING:
    from videoxl.video.decoder.session import DecodeSession

OPENING_MEMORY = LEAST_MEMORY
"""Address space until the container is open: an index that needs more is a bomb."""
HEARTBEAT_SECONDS = 1.0


class NewerCommandError(Exception):
    """The work in hand is no longer wanted."""


class Channel:
    """Both directions of the pipe to the parent."""

    def __init__(self, commands_fd: int, messages_fd: int) -> None:
        self._messages_fd = messages_fd
        self._commands: queue.Queue[dict[str, Any]] = queue.Queue()
        self._outgoing: queue.Queue[tuple[dict[str, Any], bytes | memoryview]] = queue.Queue(maxsize=1)
        self._last = time.monotonic()
        threading.Thread(target=self._listen, args=(commands_fd,), daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    def next_command(self) -> dict[str, Any]:
        """Wait for the next command."""
        return self._commands.get()

    def send(self, facts: dict[str, Any], payload: bytes | memoryview = b"") -> None:
        """Hand a message to the writer. Waits while one is being written and one is waiting: two batches in flight."""
        self._outgoing.put((facts, payload))
        self._last = time.monotonic()

    def beat(self) -> None:
        """Tell the parent that work goes on, at most once a second and never waiting. Raises when superseded."""
        if not self._commands.empty():
            raise NewerCommandError
        if time.monotonic() - self._last > HEARTBEAT_SECONDS:
            with contextlib.suppress(queue.Full):  # then a real message is on its way
                self._outgoing.put_nowait(({"kind": "alive"}, b""))
            self._last = time.monotonic()

    def _listen(self, fd: int) -> None:
        try:
            while True:
                self._commands.put(wire.receive(fd)[0])
        except (wire.WireClosedError, wire.WireGarbageError):
            os._exit(0)

    def _write(self) -> None:
        try:
            while True:
                facts, payload = self._outgoing.get()
                wire.send(self._messages_fd, facts, payload)
                self._outgoing.task_done()
        except wire.WireClosedError:
            os._exit(0)

    def flush(self) -> None:
        """Wait until everything is written."""
        self._outgoing.join()


def limit_process(limits: VideoLimits, reader: str) -> None:
    """No core is dumped and time is bounded. Without torch, which wants both, also no files and bounded memory."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, limits.cpu_seconds)
    if reader == "pyav":
        _limit(resource.RLIMIT_FSIZE, 0)
        _limit(resource.RLIMIT_AS, limits.memory_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (OPENING_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def lift_opening_limit(reader: str) -> None:
    """From opening to decoding."""
    if reader == "pyav":
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def error_facts(error: BaseException) -> dict[str, Any]:
    """How an exception goes over the wire, as one line."""
    if isinstance(error, VideoError):
        return {"kind": "error", "code": error.code, "message": str(error)}
    if isinstance(error, MissingDependencyError):
        return {"kind": "error", "code": "missing_dependency", "message": str(error)}
    if isinstance(error, MemoryError):
        message = "needs more memory than allowed; raise VideoLimits(memory_bytes=...)"
        return {"kind": "error", "code": "limits_size", "message": message}
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return {"kind": "error", "code": "undecodable", "message": f"could not be decoded ({text[:300]})"}


def serve(channel: Channel, file_fd: int) -> None:
    """Answer commands until the parent goes away."""
    from videoxl.video.decoder.session import open_session  # imports av and numpy, under the limits

    session: DecodeSession | None = None
    while True:
        command = channel.next_command()
        try:
            if command["op"] == "open":
                limits = VideoLimits(**command["limits"])
                limit_process(limits, command["reader"])
                opened = partial(lift_opening_limit, command["reader"])
                session = open_session(channel, file_fd, command["stream"], command["reader"], limits, opened)
                session.describe()
            elif session is not None:
                session.read(command)
        except NewerCommandError:
            continue
        except Exception as error:  # noqa: BLE001  (a decoder fed garbage raises anything; the parent names it)
            channel.send({**error_facts(error), "id": command.get("id")})
