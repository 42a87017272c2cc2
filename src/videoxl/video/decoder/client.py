"""Starting, watching and ending a decoder process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from videoxl.errors import MissingDependencyError, VideoError
from videoxl.video.decoder import wire
from videoxl.video.decoder.fork_server import NUMBER

PIPE_BYTES = 2**20
GRACE_SECONDS = 5.0
"""For a process that was killed to be gone."""
# An empty stand-in for the package keeps its __init__, and with it torch, out of the decoder processes.
_BOOT = """
import json, sys, types
sys.path[:] = json.loads(sys.argv[1])
package = types.ModuleType("videoxl")
package.__path__ = [sys.argv[2]]
sys.modules["videoxl"] = package
from videoxl.video.decoder.fork_server import main
main()
"""
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class DecoderProcess:
    """A decoder process for one file. It ends with :meth:`close`, with this object, or with this program."""

    def __init__(self, file_fd: int, name: str, stall_seconds: float) -> None:
        self._name = name
        self._stall_seconds = stall_seconds
        commands_read, self._commands = os.pipe()
        self._messages, messages_write = os.pipe()
        with contextlib.suppress(AttributeError, OSError):  # larger pipes are only a little faster
            fcntl.fcntl(self._messages, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            self._control = _start(file_fd, commands_read, messages_write)
        except BaseException:
            os.close(self._commands)
            os.close(self._messages)
            raise
        finally:
            os.close(commands_read)
            os.close(messages_write)
        self._end = weakref.finalize(self, _end, self._control, (self._commands, self._messages), os.getpid())
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """Process number."""
        if self._pid is None:
            self._pid = _told(self._control)
        if self._pid is None:
            raise self._gone("could not be started")
        return self._pid

    def close(self) -> None:
        """Kill the process and release its pipes. Again is fine."""
        self._end()

    def request(self, facts: dict[str, Any]) -> None:
        """Send a command. Raises ``VideoError`` ``decoder_died``."""
        self._check_alive()
        try:
            wire.send(self._commands, facts)
        except wire.WireClosedError:
            raise self._died() from None

    def receive(self, request: int) -> wire.Message:
        """The next answer to ``request``; answers to older requests are dropped.

        Raises ``VideoError``: what the process reports, ``decode_timeout`` after silence, ``decoder_died`` when it is
        gone or sends nonsense.
        """
        self._check_alive()
        while True:
            try:
                facts, payload = wire.receive(self._messages, self._stall_seconds)
            except wire.WireTimeoutError:
                self.close()
                raise VideoError(
                    f"{self._name}: decoding stood still for {self._stall_seconds:g} s and was stopped; "
                    "the file is damaged, or raise VideoLimits(stall_seconds=...)",
                    code="decode_timeout",
                ) from None
            except wire.WireClosedError:
                raise self._died() from None
            except wire.WireGarbageError as error:
                raise self.nonsense(error) from None
            if facts.get("kind") == "error" and facts.get("id") in (None, request):
                raise self._reported(facts)
            if facts.get("kind") != "alive" and facts.get("id", request) == request:
                return facts, payload

    def nonsense(self, what: Exception) -> VideoError:
        """The error for a message that cannot be right; the process is ended, it may be in hostile hands."""
        self.close()
        return VideoError(f"{self._name}: the decoder process sent nonsense ({what})", code="decoder_died")

    def _check_alive(self) -> None:
        if not self._end.alive:
            raise VideoError(f"{self._name}: is closed; open it again", code="decoder_died")

    def _reported(self, facts: dict[str, Any]) -> Exception:
        if facts["code"] == "missing_dependency":
            return MissingDependencyError(facts["message"])
        return VideoError(f"{self._name}: {facts['message']}", code=facts["code"])

    def _died(self) -> VideoError:
        pid = self.pid  # said first
        status = _told(self._control)
        if status is not None and status < 0:
            return self._gone(f"{pid} was killed by signal {-status} ({signal.strsignal(-status)})")
        return self._gone(f"{pid} ended with status {status}")

    def _gone(self, how: str) -> VideoError:
        self.close()
        return VideoError(
            f"{self._name}: the decoder process {how}; the file is damaged or needs more memory than there is",
            code="decoder_died",
        )


def _told(control: socket.socket) -> int | None:
    """The next number over a control socket; ``None`` when none comes."""
    control.settimeout(GRACE_SECONDS)
    try:
        data = control.recv(NUMBER.size, socket.MSG_WAITALL)
    except OSError:
        return None
    return int(NUMBER.unpack(data)[0]) if len(data) == NUMBER.size else None


def _end(control: socket.socket, fds: tuple[int, ...], owner: int) -> None:
    for fd in fds:
        os.close(fd)
    if os.getpid() == owner:  # a forked copy of the owner must not end the owner's decoder
        with contextlib.suppress(OSError):  # it may have ended by itself
            control.shutdown(socket.SHUT_WR)
        while _told(control) is not None:  # until it is gone
            pass
    control.close()


class _Server:
    """This program's side of the process that decoders are forked from."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair()
        package = str(Path(__file__).resolve().parents[2])
        search = json.dumps([p for p in sys.path if p])
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, search, package, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
                start_new_session=True,
            )
        weakref.finalize(self, _leave, process, self._requests, os.getpid())

    def start(self, *descriptors: int) -> socket.socket:
        """A decoder process that holds these; the control socket. Raises ``OSError`` when the server is gone."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._requests, [b"+"], [*descriptors, theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        return ours


def _leave(process: subprocess.Popen[bytes], requests: socket.socket, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            requests.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it stays as long as a decoder does
            process.wait(GRACE_SECONDS)
    requests.close()


_lock = threading.Lock()
_server: _Server | None = None
"""One for this program, from the first file on; what was forked from it starts its own."""


def _forget_server() -> None:
    global _lock, _server
    _lock, _server = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_server)


def _start(*descriptors: int) -> socket.socket:
    global _server
    with _lock:
        if _server is not None:
            with contextlib.suppress(OSError):  # it was killed: another one
                return _server.start(*descriptors)
        _server = _Server()
        return _server.start(*descriptors)
