"""A process that has loaded what decoding needs, and forks a decoder process for every file.

Loading takes some 0.3 s of processor time, a fork some milliseconds. The server has one thread and never touches a
file itself. For every decoder there is a control socket: the server says the number of the process and, when it has
ended, its status; whatever comes back, or the other end closing, kills the process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Callable

from videoxl.video.decoder.worker import Channel, serve

NUMBER = struct.Struct("<i")
"""What goes over a control socket: a process number, then an exit status as :class:`subprocess.Popen` has it."""
DESCRIPTORS = 4
"""Sent to start a decoder, in this order: the file, commands, messages, control."""


class ForkServer:
    """The loop of the server. It ends when its owner is gone and all decoders with it."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._controls: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # replaced so that it wakes the selector
        signal.set_wakeup_fd(self._wake.fileno())

    def run(self) -> None:
        """Serve until there is nothing left to do."""
        self._watch(self._requests, self._start)
        self._watch(self._woken, self._reap)
        while self._requests.fileno() >= 0 or self._controls:
            for key, _ in self._selector.select():
                key.data()

    def _watch(self, end: socket.socket, react: Callable[[], None]) -> None:
        self._selector.register(end, selectors.EVENT_READ, react)

    def _start(self) -> None:
        try:
            asked, descriptors, _, _ = socket.recv_fds(self._requests, 1, DESCRIPTORS)
        except ConnectionError:
            asked, descriptors = b"", []
        if not asked:
            self._selector.unregister(self._requests)
            self._requests.close()
            return
        control = socket.socket(fileno=descriptors.pop())
        process = os.fork()
        if process == 0:
            control.close()
            self._become_decoder(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._controls[process] = control
        self._watch(control, lambda: self._kill(process))
        _tell(control, process)

    def _become_decoder(self, file_fd: int, commands_fd: int, messages_fd: int) -> None:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for end in (self._requests, self._woken, self._wake, *self._controls.values()):
                end.close()
            serve(Channel(commands_fd, messages_fd), file_fd)
        finally:
            os._exit(1)

    def _kill(self, process: int) -> None:
        if process not in self._controls:  # it has just been reaped
            return
        self._selector.unregister(self._controls[process])
        os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # it had not yet begun a session of its own
            os.killpg(process, signal.SIGKILL)

    def _reap(self) -> None:
        self._woken.recv(4096)
        while self._controls:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            control = self._controls.pop(process)
            with contextlib.suppress(KeyError):  # where it was killed it is not watched any more
                self._selector.unregister(control)
            _tell(control, os.waitstatus_to_exitcode(status))
            control.close()


def _tell(control: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening any more
        control.sendall(NUMBER.pack(number))


def main() -> None:
    """Entry point: the last of ``sys.argv`` is the descriptor that requests come from."""
    with contextlib.suppress(ImportError):  # a decoder says what is missing
        import videoxl.video.decoder.session  # noqa: F401  (with av and numpy, for all decoders)
    ForkServer(socket.socket(fileno=int(sys.argv[-1]))).run()
