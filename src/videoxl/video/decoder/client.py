"""Starts a decoder process, talks to it, and ends it."""

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

from videoxl.errors import MissingDependencyError, VideoError
from videoxl.video.decoder import wire
from videoxl.video.decoder.fork_server import NUMBER
from videoxl.video.decoder.messages import (
    Alive,
    Answer,
    Command,
    ErrorReport,
    Result,
    parse_answer,
    to_json,
)

PIPE_BYTES = 2**20
GRACE_SECONDS = 5.0
"""How long a killed process may take to be gone."""
# An empty module in place of the package keeps its __init__, and with it torch, out of the decoder processes.
_BOOT = """
import json, sys, types
sys.path[:] = json.loads(sys.argv[1])
package = types.ModuleType("videoxl")
package.__path__ = [sys.argv[2]]
sys.modules["videoxl"] = package
from videoxl.video.decoder.fork_server import main
main()
"""
_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Environment variables that a decoder process sees: how file names are encoded, and where libraries lie."""
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class DecoderProcess:
    """A decoder process for one file. It ends with :meth:`close`, with this object, or with this program."""

    def __init__(self, file_fd: int, name: str, stall_seconds: float) -> None:
        self.name = name
        """Name of the file in messages."""
        self._stall_seconds = stall_seconds
        commands_read, self._commands = os.pipe()
        os.set_blocking(self._commands, False)
        self._answers, answers_write = os.pipe()
        with contextlib.suppress(AttributeError, OSError):  # not everywhere; a larger pipe is only a little faster
            fcntl.fcntl(self._answers, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            self._control = _start_decoder(file_fd, commands_read, answers_write)
        except BaseException:
            os.close(self._commands)
            os.close(self._answers)
            raise
        finally:
            os.close(commands_read)
            os.close(answers_write)
        pipes = (self._commands, self._answers)
        self._stop = weakref.finalize(self, _stop_decoder, self._control, pipes, os.getpid())
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """Number of the process."""
        if self._pid is None:
            self._pid = _receive_number(self._control)
        if self._pid is None:
            raise self._dead("could not be started")
        return self._pid

    @property
    def is_open(self) -> bool:
        """Whether it was neither closed nor ended by an error."""
        return self._stop.alive

    def close(self) -> None:
        """Kill the process and release its pipes. May be called more than once."""
        self._stop()

    def request(self, command: Command, payload: bytes = b"") -> None:
        """Send a command. Raises ``VideoError``: ``decoder_died``, or ``decode_timeout`` when it is not taken in."""
        self._check_open()
        try:
            wire.send(self._commands, to_json(command), payload, self._stall_seconds)
        except wire.WireTimeoutError:
            raise self._stood_still() from None
        except wire.WireClosedError:
            raise self._died() from None

    def receive(self, command: int) -> tuple[Result, bytearray]:
        """The next answer to the command of this number; answers to older commands are dropped.

        Raises ``VideoError``: what the process reports, ``decode_timeout`` when nothing comes in, ``decoder_died``
        when the process is gone or sends garbage.
        """
        self._check_open()
        while True:
            answer, payload = self._next_answer()
            if isinstance(answer, Alive) or answer.id != command:
                continue
            if isinstance(answer, ErrorReport):
                raise self._reported(answer)
            return answer, payload

    def _next_answer(self) -> tuple[Answer, bytearray]:
        try:
            text, payload = wire.receive(self._answers, self._stall_seconds)
            return parse_answer(text), payload
        except wire.WireTimeoutError:
            raise self._stood_still() from None
        except wire.WireClosedError:
            raise self._died() from None
        except wire.WireGarbageError as error:
            raise self.garbage(error) from None

    def _stood_still(self) -> VideoError:
        self.close()
        return VideoError(
            f"{self.name}: decoding stood still for {self._stall_seconds:g} s and was stopped; "
            "the file is damaged, or raise VideoLimits(stall_seconds=...)",
            code="decode_timeout",
        )

    def garbage(self, what: Exception) -> VideoError:
        """The error for an answer that cannot be right. Kills the process, which a hostile file may have taken over."""
        self.close()
        return VideoError(f"{self.name}: the decoder process sent garbage ({what})", code="decoder_died")

    def _check_open(self) -> None:
        if not self._stop.alive:
            raise VideoError(f"{self.name}: is closed; open it again", code="decoder_died")

    def _reported(self, report: ErrorReport) -> Exception:
        if report.code == "missing_dependency":
            return MissingDependencyError(report.message)
        return VideoError(f"{self.name}: {report.message}", code=report.code)

    def _died(self) -> VideoError:
        pid = self.pid  # comes first on the control socket, then the status
        status = _receive_number(self._control)
        if status is not None and status < 0:
            return self._dead(f"{pid} was killed by signal {-status} ({signal.strsignal(-status)})")
        return self._dead(f"{pid} ended with status {status}")

    def _dead(self, how: str) -> VideoError:
        self.close()
        return VideoError(
            f"{self.name}: the decoder process {how}; the file is damaged or needs more memory than there is",
            code="decoder_died",
        )


def _receive_number(control: socket.socket) -> int | None:
    """The next number on a control socket; ``None`` when none comes."""
    control.settimeout(GRACE_SECONDS)
    try:
        data = control.recv(NUMBER.size, socket.MSG_WAITALL)
    except OSError:
        return None
    return int(NUMBER.unpack(data)[0]) if len(data) == NUMBER.size else None


def _stop_decoder(control: socket.socket, fds: tuple[int, ...], owner: int) -> None:
    for fd in fds:
        os.close(fd)
    if os.getpid() == owner:  # a program forked from the owner must not end the owner's decoder
        with contextlib.suppress(OSError):  # it may have ended by itself
            control.shutdown(socket.SHUT_WR)
        while _receive_number(control) is not None:  # until it is gone
            pass
    control.close()


class _Server:
    """This program's side of the fork server."""

    def __init__(self) -> None:
        self._requests, server_end = socket.socketpair()
        package = str(Path(__file__).resolve().parents[2])
        search = json.dumps([os.path.abspath(p) for p in sys.path if p])
        with server_end:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, search, package, str(server_end.fileno())],
                pass_fds=[server_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        weakref.finalize(self, _stop_server, process, self._requests, os.getpid())

    def start_decoder(self, *descriptors: int) -> socket.socket:
        """Start a decoder process with these descriptors. Returns its control socket.

        Raises ``OSError`` when the server is gone.
        """
        our_end, server_end = socket.socketpair()
        try:
            with server_end:
                socket.send_fds(self._requests, [b"+"], [*descriptors, server_end.fileno()])
        except BaseException:
            our_end.close()
            raise
        return our_end


def _environment() -> dict[str, str]:
    """Only what loading modules needs: no token, no home folder, no search path of programs."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | dict.fromkeys(_ONE_THREAD, "1")


def _stop_server(process: subprocess.Popen[bytes], requests: socket.socket, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            requests.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it stays as long as a decoder does
            process.wait(GRACE_SECONDS)
    requests.close()


_lock = threading.Lock()
_server: _Server | None = None
"""This program's fork server, started with the first file. A program forked from this one starts its own."""


def _forget_server() -> None:
    global _lock, _server
    _lock, _server = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_server)


def _start_decoder(*descriptors: int) -> socket.socket:
    global _server
    with _lock:
        if _server is not None:
            with contextlib.suppress(OSError):  # the server was killed: start another one
                return _server.start_decoder(*descriptors)
        _server = _Server()
        return _server.start_decoder(*descriptors)
