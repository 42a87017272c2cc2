"""The front's side of one worker process: it is kept alive, is sent requests, and its replies find who waits."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from videoxl.server.child import Child
from videoxl.server.protocol import (
    Answered,
    Ask,
    Cancel,
    Failed,
    Message,
    Progressed,
    Ready,
    Reply,
    Request,
    Said,
)
from videoxl.server.settings import ServerSettings

logger = logging.getLogger(__name__)
CUDA = "cuda:"

AnswerEvent = Said | Answered | Failed


class Owner(Protocol):
    """Who is told what happens to a worker."""

    def on_ready(self, worker: WorkerProcess) -> None:
        """The model is loaded. Raises ``ValueError`` where it is not the one it should be."""

    def on_reply(self, worker: WorkerProcess, reply: Reply) -> None:
        """A reply that is about no question."""

    def on_ended(self, worker: WorkerProcess) -> None:
        """The process ended; its questions have failed. It is started again, unless ``gave_up``."""


class WorkerProcess:
    """One process with one model on one device. Made and used within one event loop."""

    def __init__(self, number: int, device: str, settings: ServerSettings, command: list[str], owner: Owner) -> None:
        """``command``: of the process, without its two arguments."""
        self.number, self.device = number, device
        self._own_device, environment = own_device(device, len(settings.places))
        self._settings, self._owner = settings, owner
        self._child = Child(
            f"worker {number} ({device})",
            command,
            most_restarts=settings.restarts,
            heard=self._receive,
            useful=lambda: self.ready is not None,
            lost=self._lost,
            environment=environment,
        )
        self.ready: Ready | None = None
        self.reading: str | None = None
        """The memory that it reads."""
        self._waiting: dict[str, asyncio.Queue[AnswerEvent]] = {}
        self._heard = 0.0
        """When something was last sent to it, or heard of it."""
        self._watch: asyncio.Task[None] | None = None

    @property
    def gave_up(self) -> bool:
        """Whether it is not started again."""
        return self._child.gave_up

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self._child.restarts

    @property
    def questions(self) -> int:
        """Questions that wait or are being answered."""
        return len(self._waiting)

    @property
    def load(self) -> tuple[int, int]:
        """Compares workers: the one with less is less busy."""
        return self.questions, int(self.reading is not None)

    @property
    def pid(self) -> int | None:
        """Process number."""
        return self._child.pid

    async def start(self) -> None:
        """Start the process, and keep one running."""
        self._watch = asyncio.create_task(self._end_if_silent(), name=f"videoxl-watch-{self.number}")
        await self._child.start(json.dumps(self._worker_settings()))

    async def stop(self) -> None:
        """End the process."""
        if self._watch is not None:
            self._watch.cancel()
        await self._child.stop()

    def give_up(self) -> None:
        """End the process, for good."""
        self._child.give_up()

    def send(self, request: Request) -> None:
        """Hand a request to the process, if there is one."""
        self._heard = time.monotonic()
        self._child.send(request)

    @asynccontextmanager
    async def asking(self, ask: Ask) -> AsyncIterator[AsyncIterator[AnswerEvent]]:
        """Ask; see :meth:`Backend.asking`."""
        events: asyncio.Queue[AnswerEvent] = asyncio.Queue()
        self._waiting[ask.id] = events
        try:
            self.send(ask)
            yield _until_done(events)
        finally:
            if self._waiting.pop(ask.id, None) is not None:
                self.send(Cancel(ask.id))

    async def _end_if_silent(self) -> None:
        """End a process that has work and says nothing: it hangs, and so would whoever waits for it."""
        most = self._settings.silent_seconds
        while True:
            await asyncio.sleep(most / 4)
            busy = self.ready is not None and (self._waiting or self.reading is not None)
            if busy and time.monotonic() - self._heard > most:
                logger.error("worker %d (%s) said nothing for %g s: it is ended", self.number, self.device, most)
                self._child.end()

    def _worker_settings(self) -> dict[str, object]:
        chosen = self._settings
        found = {name: getattr(chosen, name) for name in ("model", "dtype", "quantization", "hot_bytes", "shared")}
        return {**found, "device": self._own_device, "frames": chosen.index.frames if chosen.index else None}

    def _lost(self) -> None:
        """Nothing hangs: questions fail, and the owner queues the reading again."""
        self.ready = None
        for events in self._waiting.values():
            events.put_nowait(Failed("", "worker_lost", "the worker ended while it answered: ask again"))
        self._waiting.clear()
        self._owner.on_ended(self)

    # ------------------------------------------------------------------------------------------------- replies

    def _receive(self, reply: Message) -> None:
        self._heard = time.monotonic()
        if isinstance(reply, Ready):
            self.ready = reply
            self._owner.on_ready(self)
        elif isinstance(reply, Said):
            self._pass_on(reply, last=False)
        elif isinstance(reply, Answered) or (isinstance(reply, Failed) and reply.id != self.reading):
            self._pass_on(reply, last=True)
        elif not isinstance(reply, Progressed) or reply.id == self.reading:  # a question only says that it goes on
            self._owner.on_reply(self, reply)  # type: ignore[arg-type]  # a worker sends no requests

    def _pass_on(self, event: AnswerEvent, *, last: bool) -> None:
        waiting = self._waiting.pop(event.id, None) if last else self._waiting.get(event.id)
        if waiting is not None:
            waiting.put_nowait(event)


async def _until_done(events: asyncio.Queue[AnswerEvent]) -> AsyncIterator[AnswerEvent]:
    while True:
        event = await events.get()
        yield event
        if not isinstance(event, Said):
            return


def own_device(device: str, of: int) -> tuple[str, dict[str, str]]:
    """The device as the process calls it, and its environment.

    One of several workers sees its own GPU only, so that nothing it does can land on another's. ``cuda:1`` is the
    second one of those that this server sees.
    """
    environment = dict(os.environ)
    if of == 1 or not device.startswith(CUDA):
        return device, environment
    number = int(device.removeprefix(CUDA))
    visible = [one.strip() for one in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    if visible and number >= len(visible):
        raise ValueError(f"{device}: CUDA_VISIBLE_DEVICES={','.join(visible)} shows {len(visible)} GPUs")
    environment["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    return "cuda:0", environment
