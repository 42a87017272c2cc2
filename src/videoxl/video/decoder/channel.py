"""Inside the decoder process: both directions of the pipe to the program that asked."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time

from videoxl.video.decoder import wire
from videoxl.video.decoder.messages import HEARTBEAT_SECONDS, Alive, Answer, Command, parse_command, to_json


class NewerCommandError(Exception):
    """A newer command has come in: the one at work is no longer wanted."""


class Channel:
    """Receives commands and sends answers, each in a thread of its own. The other end closing ends the process.

    ``first``: a command, with its payload, that was read before there were threads.
    """

    def __init__(self, commands_fd: int, answers_fd: int, first: tuple[Command, bytearray]) -> None:
        self._commands: queue.Queue[tuple[Command, bytearray]] = queue.Queue()
        self._commands.put(first)
        self._outgoing: queue.Queue[tuple[Answer, bytes | memoryview]] = queue.Queue(maxsize=1)
        self._last_sent = time.monotonic()
        threading.Thread(target=self._receive_all, args=(commands_fd,), daemon=True).start()
        threading.Thread(target=self._send_all, args=(answers_fd,), daemon=True).start()

    def next_command(self) -> tuple[Command, bytearray]:
        """Wait for the next command, and its payload."""
        return self._commands.get()

    def send(self, answer: Answer, payload: bytes | memoryview = b"") -> None:
        """Send an answer. Waits while one is being written and one is queued, so at most two batches are in flight."""
        self._outgoing.put((answer, payload))
        self._last_sent = time.monotonic()

    def heartbeat(self) -> None:
        """Say that work goes on, at most once a second, without waiting. Raises ``NewerCommandError``."""
        if not self._commands.empty():
            raise NewerCommandError
        if time.monotonic() - self._last_sent > HEARTBEAT_SECONDS:
            with contextlib.suppress(queue.Full):  # an answer is queued, which says it too
                self._outgoing.put_nowait((Alive(), b""))
            self._last_sent = time.monotonic()

    def _receive_all(self, fd: int) -> None:
        try:
            while True:
                text, payload = wire.receive(fd)
                self._commands.put((parse_command(text), payload))
        except (wire.WireClosedError, wire.WireGarbageError):
            os._exit(0)

    def _send_all(self, fd: int) -> None:
        try:
            while True:
                answer, payload = self._outgoing.get()
                wire.send(fd, to_json(answer), payload)
        except wire.WireClosedError:
            os._exit(0)
