"""The front's side of one worker process: it is kept alive, is sent requests, and its replies find who waits."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from videoxl.server.protocol import (
    MAX_LINE,
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
    from_line,
    to_line,
)
from videoxl.server.settings import ServerSettings

logger = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a worker that ended is started again; doubled each time it ends without having done anything."""
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
        self._own_device, self._environment = own_device(device, len(settings.places))
        self._settings, self._command, self._owner = settings, command, owner
        self.ready: Ready | None = None
        self.gave_up = False
        """Whether it ended so often that it is not started again."""
        self.restarts = 0
        self.reading: str | None = None
        """The memory that it reads."""
        self._waiting: dict[str, asyncio.Queue[AnswerEvent]] = {}
        self._heard = 0.0
        """When something was last sent to it, or heard of it."""
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

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
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process, and keep one running."""
        self._keeper = asyncio.create_task(self._keep(), name=f"videoxl-worker-{self.number}")

    async def stop(self) -> None:
        """End the process."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        self._end_process()

    def send(self, request: Request) -> None:
        """Hand a request to the process, if there is one."""
        if self._writer is not None:
            self._heard = time.monotonic()
            self._writer.write(to_line(request))

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

    # -------------------------------------------------------------------------------------------- the process

    async def _keep(self) -> None:
        pause, failures = FIRST_PAUSE, 0
        while failures <= self._settings.restarts and not self.gave_up:
            try:
                worked = await self._run_once()
            except (
                Exception
            ):  # such as a system without processes or descriptors left: tried again, not given up silently
                logger.exception("worker %d (%s) could not be started", self.number, self.device)
                worked = False
            failures, pause = (0, FIRST_PAUSE) if worked else (failures + 1, min(2 * pause, LONGEST_PAUSE))
            self.restarts += 1
            logger.warning("worker %d (%s) ended; it is started again in %.1f s", self.number, self.device, pause)
            await asyncio.sleep(pause)
        self.gave_up = True
        self._owner.on_ended(self)
        logger.error(
            "worker %d (%s) is started no more: it ended without having done anything", self.number, self.device
        )

    async def _run_once(self) -> bool:
        """Run a process until it ends. Returns whether it was of use."""
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), json.dumps(self._worker_settings())]
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *arguments,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environment,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE)
        was_ready, watch = False, asyncio.create_task(self._end_if_silent())
        try:
            async for line in reader:
                self._heard = time.monotonic()
                self._receive(from_line(line))
                was_ready = was_ready or self.ready is not None
        except (ConnectionError, ValueError) as error:
            logger.warning("the connection to worker %d broke: %s", self.number, error)
        finally:
            watch.cancel()
            self._lost()
        return was_ready

    async def _end_if_silent(self) -> None:
        """End a process that has work and says nothing: it hangs, and so would whoever waits for it."""
        most = self._settings.silent_seconds
        while True:
            await asyncio.sleep(most / 4)
            busy = self.ready is not None and (self._waiting or self.reading is not None)
            if busy and time.monotonic() - self._heard > most:
                logger.error("worker %d (%s) said nothing for %g s: it is ended", self.number, self.device, most)
                self._end_process()
                return

    def _worker_settings(self) -> dict[str, object]:
        chosen = self._settings
        found = {name: getattr(chosen, name) for name in ("model", "dtype", "quantization", "hot_bytes", "shared")}
        return {**found, "device": self._own_device, "frames": chosen.index.frames if chosen.index else None}

    def _lost(self) -> None:
        """Nothing hangs: questions fail, and the owner queues the reading again."""
        self._end_process()
        self.ready = None
        for events in self._waiting.values():
            events.put_nowait(Failed("", "worker_lost", "the worker ended while it answered: ask again"))
        self._waiting.clear()
        self._owner.on_ended(self)

    def _end_process(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    # ------------------------------------------------------------------------------------------------- replies

    def _receive(self, reply: Message) -> None:
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
