"""Starts a decoder process, talks to it, and ends it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import time
import weakref

from videoxl.errors import MissingDependencyError, SystemResourceError, VideoError, shortage
from videoxl.video.decoder import wire
from videoxl.video.decoder.fork_server import NOT_STARTED, NUMBER
from videoxl.video.decoder.launcher import start_process, why_none_starts
from videoxl.video.decoder.messages import (
    HEARTBEAT_SECONDS,
    Alive,
    Answer,
    ClipReport,
    Command,
    Confinement,
    ErrorReport,
    ReadReport,
    Result,
    parse_answer,
    printable,
    to_json,
)
from videoxl.video.info import VideoLimits

PIPE_BYTES = 2**20
MOST_ALIVE = 10
"""So many messages that say 'alive' may come at once, besides two for each time that one is due."""
NOT_POSSIBLE = "the decoder process could not be started"
GRACE_SECONDS = 5.0
"""How long a killed process may take to be gone."""


class DecoderProcess:
    """A decoder process for one file. It ends with :meth:`close`, with this object, or with this program."""

    def __init__(self, file_fd: int, name: str, limits: VideoLimits) -> None:
        self.name = name
        """Name of the file in messages."""
        self._limits = limits
        self._waited = 0.0
        self._alive, self._started = 0, time.monotonic()
        try:
            self._control, self._commands, self._answers = _connect(file_fd)
        except OSError as error:
            raise SystemResourceError(f"{name}: {NOT_POSSIBLE}: {shortage(error) or error}") from None
        pipes = (self._commands, self._answers)
        self._stop = weakref.finalize(self, _stop_decoder, self._control, pipes, os.getpid())
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """Number of the process."""
        if self._pid is None:
            number = _receive_number(self._control)
            if number is None or number < 0:
                raise self._no_process(None if number is None else OSError(-number, os.strerror(-number)))
            self._pid = number
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
            wire.send(self._commands, to_json(command), payload, self._limits.stall_seconds)
        except wire.WireTimeoutError:
            raise self._stood_still() from None
        except wire.WireClosedError:
            raise self._died() from None

    def receive(self, command: int) -> tuple[Result, bytearray]:
        """The next answer to the command of this number, the newest; answers to older commands are dropped.

        Raises ``VideoError``: what the process reports, ``decode_timeout`` when nothing comes in, ``decoder_died``
        when the process is gone or sends garbage.
        """
        self._check_open()
        while True:
            answer, payload = self._next_answer()
            if payload and isinstance(answer, Alive | ErrorReport | ReadReport | ClipReport | Confinement):
                raise self.garbage(ValueError(f"{len(payload)} bytes with {answer.kind}"))
            if isinstance(answer, Alive):
                self._count_alive()
            elif not 0 <= answer.id <= command:
                raise self.garbage(ValueError(f"an answer to command {answer.id} of {command}"))
            elif answer.id == command:
                if isinstance(answer, ErrorReport):
                    raise self._reported(answer)
                return answer, payload

    def _count_alive(self) -> None:
        self._alive += 1
        if self._alive > MOST_ALIVE + 2 * (time.monotonic() - self._started) / HEARTBEAT_SECONDS:
            raise self.garbage(ValueError(f"'alive' {self._alive} times"))

    def _next_answer(self) -> tuple[Answer, bytearray]:
        left = self._limits.total_seconds - self._waited
        begin = time.monotonic()
        try:
            text, payload = wire.receive(self._answers, self._limits.stall_seconds, left)
            return parse_answer(text), payload
        except wire.WireTimeoutError:
            raise (self._took_too_long() if time.monotonic() - begin >= left else self._stood_still()) from None
        except wire.WireClosedError:
            raise self._died() from None
        except wire.WireGarbageError as error:
            raise self.garbage(error) from None
        finally:
            self._waited += time.monotonic() - begin

    def _stood_still(self) -> VideoError:
        self.close()
        return VideoError(
            f"{self.name}: decoding stood still for {self._limits.stall_seconds:g} s and was stopped; "
            "the file is damaged, or raise VideoLimits(stall_seconds=...)",
            code="decode_timeout",
        )

    def _took_too_long(self) -> VideoError:
        self.close()
        return VideoError(
            f"{self.name}: decoding was waited for {self._limits.total_seconds:g} s in all and was stopped; "
            "the file is damaged, or raise VideoLimits(total_seconds=...)",
            code="decode_timeout",
        )

    def garbage(self, what: Exception) -> VideoError:
        """The error for an answer that cannot be right. Kills the process, which a hostile file may have taken over."""
        self.close()
        text = printable(str(what))[:300]
        return VideoError(f"{self.name}: the decoder process sent garbage ({text})", code="decoder_died")

    def _check_open(self) -> None:
        if not self._stop.alive:
            raise VideoError(f"{self.name}: is closed; open it again", code="decoder_died")

    def _reported(self, report: ErrorReport) -> Exception:
        if report.code == "missing_dependency":
            return MissingDependencyError(report.message)
        if report.code == "system_resources":
            return SystemResourceError(f"{self.name}: {report.message}")
        return VideoError(f"{self.name}: {report.message}", code=report.code)

    def _died(self) -> VideoError | SystemResourceError:
        pid = self.pid  # comes first on the control socket, then the status
        status = _receive_number(self._control)
        if status is None:
            raise self._no_process(None)
        if status == NOT_STARTED:
            return self._no_process(OSError(f"{pid} ended before it read the file, for want of threads or memory"))
        if status == -signal.SIGKILL:
            return self._killed(pid)
        if status < 0:
            return self._dead(f"{pid} was killed by signal {-status} ({signal.strsignal(-status)})")
        return self._dead(f"{pid} ended with status {status}")

    def _no_process(self, error: OSError | None) -> SystemResourceError:
        """The error for a process that could not be started, with what the system says or a trial shows."""
        self.close()
        why = (shortage(error) or str(error)) if error else why_none_starts()
        return SystemResourceError(f"{self.name}: {NOT_POSSIBLE}: {why}")

    def _killed(self, pid: int) -> VideoError:
        self.close()
        return VideoError(
            f"{self.name}: the decoder process {pid} was killed by signal 9 ({signal.strsignal(9)}), "
            "which the system does when memory runs out; free some and try again",
            code="decoder_died",
        )

    def _dead(self, how: str) -> VideoError:
        self.close()
        return VideoError(
            f"{self.name}: the decoder process {how}; the file is damaged or needs more memory than there is",
            code="decoder_died",
        )


def _connect(file_fd: int) -> tuple[socket.socket, int, int]:
    """Start a decoder process. Returns its control socket, and this program's ends of its pipes."""
    with contextlib.ExitStack() as on_error, contextlib.ExitStack() as always:
        commands_read, commands_write = os.pipe()
        always.callback(os.close, commands_read)
        on_error.callback(os.close, commands_write)
        answers_read, answers_write = os.pipe()
        always.callback(os.close, answers_write)
        on_error.callback(os.close, answers_read)
        os.set_blocking(commands_write, False)
        with contextlib.suppress(AttributeError, OSError):  # not everywhere; a larger pipe is only a little faster
            fcntl.fcntl(answers_read, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        control = start_process(file_fd, commands_read, answers_write)
        on_error.pop_all()
    return control, commands_write, answers_read


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
