"""A worker without a model: ``python -m tests.server.fake_worker DESCRIPTOR SETTINGS``.

What it does follows from names and questions: ``die`` ends the process, ``wait`` waits to be cancelled, ``bad`` fails,
``hang`` stops without an end, ``garbage`` says what nobody understands.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from videoxl.errors import MemoryFileError
from videoxl.server.inbox import Inbox
from videoxl.server.protocol import (
    Answered,
    Ask,
    Failed,
    Progressed,
    Read,
    ReadDone,
    Ready,
    Reply,
    Said,
    StreamEnded,
    StreamTold,
    Watch,
    to_line,
)
from videoxl.server.shared import SharedMemories, SharedMemory

USAGE = {"read_tokens": 10, "prompt_tokens": 3, "new_tokens": 2, "finish_reason": "stop"}


class FakeWorker:
    def __init__(self, connection: socket.socket, shared: str | None = None) -> None:
        self.shared = SharedMemories(shared, verify=whole) if shared else None
        self.out = connection.makefile("wb", buffering=0)
        self.names: dict[str, str] = {}
        self.inbox = Inbox(connection.makefile("rb"), self.cancelled)

    def tell(self, reply: Reply) -> None:
        self.out.write(to_line(reply))

    def cancelled(self, request_id: str) -> None:
        self.tell(Failed(request_id, "cancelled", "cancelled before it was done"))

    def run(self) -> None:
        self.tell(Ready("fake", "video-xl-2", "f" * 64, "cpu", "float32"))
        while self.inbox.wait():
            self.inbox.next_forget()
            while (message := self.inbox.next_stream()) is not None:
                self.watch(message) if isinstance(message, Watch) else self.tell(StreamEnded(message.id, "", ""))
            for ask in self.inbox.next_asks(16):
                self.ask(ask)
            if (reading := self.inbox.next_read()) is not None:
                self.read(reading)

    def waits(self, request_id: str) -> bool:
        while not self.inbox.is_stopped(request_id):
            for ask in self.inbox.next_asks(16):
                self.ask(ask)
            time.sleep(0.01)
        self.inbox.done(request_id)
        self.cancelled(request_id)
        return True

    def read(self, reading: Read) -> None:
        self.tell(Progressed(reading.id, "prefill", 1, 2))
        if "die" in reading.name:
            os._exit(9)
        if "wait" in reading.name and self.waits(reading.id):
            return
        if "bad" in reading.name:
            self.tell(Failed(reading.id, "not_a_video", f"{reading.name} is no video"))
            return
        problems: list[str] = []
        key, target = Path(reading.target).stem, Path(reading.target)
        fetched = self.shared is not None and self.shared.fetch(key, target, nothing, problems)
        if not fetched and not reading.path:
            self.tell(Failed(reading.id, "memory_not_found", "shared no more"))
            return
        if not fetched:
            target.write_bytes(b"memory")
            if self.shared is not None:
                self.shared.publish(key, target, nothing, problems)
        self.names[reading.target] = reading.name
        facts = {"frames": 2, "tokens": 10, "seconds": 48.0, "bytes": 6, "warnings": problems}
        if fetched:
            facts["warnings"] = [*problems, "fetched"]
        if self.shared is not None and reading.path:
            self.shared.describe(reading.id, SharedMemory(key, Path(reading.path).name, reading.settings, facts))
        self.tell(ReadDone(reading.id, facts))

    def watch(self, watch: Watch) -> None:
        if "dead" in watch.url:
            self.tell(StreamEnded(watch.id, "not_found", "tcp://dead:1: cannot be reached"))
            return
        state = {"kind": "state", "seconds": 0.0, "time": 1.0, "state": "live", "message": ""}
        alert = {"kind": "alert", "seconds": 4.0, "time": 5.0, "question": "<b>?", "state": "fired", "since": 2.0}
        self.tell(StreamTold(watch.id, [state, {**alert, "probability": 0.9}], 4.0))

    def ask(self, ask: Ask) -> None:
        if ask.question == "die":
            os._exit(9)
        if ask.question == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        if ask.question == "garbage":
            self.out.write(b'["Nothing",{}]\n')
        if ask.question == "wait" and self.waits(ask.id):
            return
        if ask.question == "bad":
            self.tell(Failed(ask.id, "invalid_value", "no such thing"))
            return
        text = ask.question if ask.question.startswith("<") else "hello"
        for word in [text[:2], text[2:]] if ask.stream else []:
            self.tell(Said(ask.id, word))
        evidence = [{"start": 4.0, "end": 8.0, "share": 0.8}]
        about = {"evidence": evidence, "warnings": ["<b>said</b>"]}
        answer = {
            **about,
            "text": text,
            "usage": USAGE,
            "alternatives": [],
            "confidence": -0.1 if "sure" in self.names.get(ask.memory, "") else -1.0,
            "logprobs": None,
            "asked": json.dumps(vars(ask)),
            "worker": os.getpid(),
        }
        if ask.memory.startswith("stream://"):
            answer["live"] = {"start": 0.0, "end": 4.0, "notes": []}
        self.tell(Answered(ask.id, answer))


def whole(path: Path) -> None:
    if path.read_bytes() != b"memory":
        raise MemoryFileError(f"{path.name} is damaged", code="memory_corrupt")


def nothing(done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    FakeWorker(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2])["shared"]).run()
