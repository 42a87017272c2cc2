"""This program's side of the fork server: starts it with the first file, and asks it for decoder processes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path

TRIAL_SECONDS = 60.0
STOP_SECONDS = 5.0
"""How long the server may take to end."""
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


class _Server:
    """This program's side of the fork server."""

    def __init__(self) -> None:
        self._requests, server_end = socket.socketpair()
        try:
            with server_end:
                process = subprocess.Popen(
                    _boot_command(_BOOT, server_end.fileno()),
                    pass_fds=[server_end.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=_environment(),
                    start_new_session=True,
                )
        except BaseException:
            self._requests.close()
            raise
        weakref.finalize(self, _stop_server, process, self._requests, os.getpid())

    def start_decoder(self, *descriptors: int) -> socket.socket:
        """Start a decoder process with these descriptors. Returns its control socket.

        Raises ``ConnectionError`` when the server is gone, ``OSError`` when there are no descriptors.
        """
        our_end, server_end = socket.socketpair()
        try:
            with server_end:
                socket.send_fds(self._requests, [b"+"], [server_end.fileno(), *descriptors])
        except BaseException:
            our_end.close()
            raise
        return our_end


def _boot_command(boot: str, *arguments: object) -> list[str]:
    package = str(Path(__file__).resolve().parents[2])
    search = json.dumps([os.path.abspath(p) for p in sys.path if p])
    return [sys.executable, "-I", "-S", "-c", boot, search, package, *map(str, arguments)]


def why_none_starts() -> str:
    """Load in another process what a decoder process loads, and say what goes wrong."""
    try:
        done = subprocess.run(
            _boot_command(_BOOT.replace("\nmain()\n", "\n")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            env=_environment(),
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return last if last and done.returncode else "the process that starts it has ended; try again"


def _environment() -> dict[str, str]:
    """Only what loading modules needs: no token, no home folder, no search path of programs."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | dict.fromkeys(_ONE_THREAD, "1")


def _stop_server(process: subprocess.Popen[bytes], requests: socket.socket, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            requests.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it stays as long as a decoder does
            process.wait(STOP_SECONDS)
    requests.close()


_lock = threading.Lock()
_server: _Server | None = None
"""This program's fork server, started with the first file. A program forked from this one starts its own."""


def _forget_server() -> None:
    global _lock, _server
    _lock, _server = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_server)


def start_process(*descriptors: int) -> socket.socket:
    """Start a decoder process with these descriptors. Returns its control socket. Raises ``OSError``."""
    global _server
    with _lock:
        if _server is not None:
            with contextlib.suppress(ConnectionError):  # the server was killed: start another one
                return _server.start_decoder(*descriptors)
        _server = _Server()
        return _server.start_decoder(*descriptors)
