"""Starting, watching and ending a decoder process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

from videoxl.errors import MissingDependencyError, VideoError
from videoxl.video import wire

PIPE_BYTES = 2**20
# An empty stand-in for the package keeps its __init__, and with it torch, out of the decoder process.
_BOOT = """
import json, sys, types
sys.path[:] = json.loads(sys.argv[1])
package = types.ModuleType("videoxl")
package.__path__ = [sys.argv[2]]
sys.modules["videoxl"] = package
from videoxl.video.worker import main
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
            self._process = _start(file_fd, commands_read, messages_write)
        except BaseException:
            os.close(self._commands)
            os.close(self._messages)
            raise
        finally:
            os.close(commands_read)
            os.close(messages_write)
        self._end = weakref.finalize(self, _end, self._process, (self._commands, self._messages), os.getpid())

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

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
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = None
        self.close()
        if status is not None and status < 0:
            how = f"was killed by signal {-status} ({signal.strsignal(-status)})"
        else:
            how = f"ended with status {status}"
        return VideoError(
            f"{self._name}: the decoder process {how}; the file is damaged or needs more memory than there is",
            code="decoder_died",
        )


def _start(file_fd: int, commands_fd: int, messages_fd: int) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parent.parent)
    search = json.dumps([p for p in sys.path if p])
    handed_on = (file_fd, commands_fd, messages_fd)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, search, package, *map(str, handed_on)],
        pass_fds=handed_on,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes], fds: tuple[int, ...], owner: int) -> None:
    for fd in fds:
        os.close(fd)
    if os.getpid() != owner:  # a forked copy of the owner must not end the owner's decoder
        return
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it may end by itself just now
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
