"""A process that has loaded what decoding needs, and forks a decoder process for every file.

Loading takes about 0.3 s of processor time, a fork some milliseconds. The server has one thread and never reads a file
itself. Every decoder process has a control socket. On it the server sends the number of the process and, when the
process has ended, its exit status. Anything that comes in on it, or the other end closing, kills the process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Callable

from videoxl.video.decoder import sandbox
from videoxl.video.decoder.worker import serve

NUMBER = struct.Struct("<i")
"""Sent on a control socket: a process number, then an exit status as :class:`subprocess.Popen` has it. If no process
could be started: the number of the error (errno), negative, and nothing else."""
DESCRIPTORS = 4
"""Number of descriptors that start a decoder, in this order: control, file, commands, answers."""
NOT_STARTED = 71
"""Exit status of a decoder process that ended before it began to read its file."""


class ForkServer:
    """The loop of the server. It ends when the program that started it is gone, and all decoders with it."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._controls: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # any handler makes the signal wake the selector
        signal.set_wakeup_fd(self._wake.fileno())

    def run(self) -> None:
        """Serve until there is nothing left to do."""
        self._register(self._requests, self._start)
        self._register(self._woken, self._reap)
        while self._requests.fileno() >= 0 or self._controls:
            for key, _ in self._selector.select():
                key.data()

    def _register(self, end: socket.socket, callback: Callable[[], None]) -> None:
        self._selector.register(end, selectors.EVENT_READ, callback)

    def _start(self) -> None:
        try:
            request, descriptors, _, _ = socket.recv_fds(self._requests, 1, DESCRIPTORS)
        except ConnectionError:
            request, descriptors = b"", []
        if request and not descriptors:  # this process may have no more, so the other end sees no number
            return
        if not request:
            self._selector.unregister(self._requests)
            self._requests.close()
            return
        control, *others = descriptors
        self._start_with(socket.socket(fileno=control), others)

    def _start_with(self, control: socket.socket, descriptors: list[int]) -> None:
        try:
            if len(descriptors) < DESCRIPTORS - 1:
                raise OSError(errno.EMFILE, "some descriptors were lost on the way")
            process = os.fork()
        except OSError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            _send_number(control, -(error.errno or errno.EAGAIN))
            control.close()
            return
        if process == 0:
            control.close()
            self._become_decoder(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._controls[process] = control
        self._register(control, lambda: self._kill(process))
        _send_number(control, process)

    def _become_decoder(self, file_fd: int, commands_fd: int, answers_fd: int) -> None:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for end in (self._requests, self._woken, self._wake, *self._controls.values()):
                end.close()
            serve(file_fd, commands_fd, answers_fd)
        finally:
            os._exit(NOT_STARTED)

    def _kill(self, process: int) -> None:
        if process not in self._controls:  # it ended a moment ago
            return
        self._selector.unregister(self._controls[process])
        os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # it has not called setsid yet
            os.killpg(process, signal.SIGKILL)

    def _reap(self) -> None:
        self._woken.recv(4096)
        while self._controls:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            control = self._controls.pop(process)
            with contextlib.suppress(KeyError):  # _kill has done it already
                self._selector.unregister(control)
            _send_number(control, os.waitstatus_to_exitcode(status))
            control.close()


def _send_number(control: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the other end may be closed
        control.sendall(NUMBER.pack(number))


def main() -> None:
    """Serve the descriptor in the last of ``sys.argv``, from which requests come."""
    sandbox.hide()
    ForkServer(socket.socket(fileno=int(sys.argv[-1]))).run()
