"""The front's side of the worker: it is kept alive, gets readings and questions, and its replies find who waits."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from videoxl.server.problems import ApiError
from videoxl.server.protocol import (
    MAX_LINE,
    Answered,
    Ask,
    Cancel,
    Failed,
    Forget,
    Progressed,
    Read,
    ReadDone,
    Ready,
    Request,
    Said,
    from_line,
    to_line,
)
from videoxl.server.settings import ServerSettings
from videoxl.server.store import MemoryJob, Store

logger = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a worker that ended is started again; doubled each time it ends without having done anything."""
START_SECONDS = 120.0
"""How long a question waits for a model that is being loaded, at most."""

AnswerEvent = Said | Answered | Failed
Listener = Callable[[MemoryJob, Progressed | None], None]


class Backend:
    """One worker process. Made and used within one event loop."""

    def __init__(self, settings: ServerSettings, store: Store, command: list[str] | None = None) -> None:
        """``command``: of the worker, without its two arguments."""
        self._settings, self._store = settings, store
        self._command = command or [sys.executable, "-m", "videoxl.server.worker"]
        self.ready: Ready | None = None
        self.gave_up = False
        """Whether the worker ended so often that it is not started again."""
        self.restarts = 0
        self.progress: dict[str, Progressed] = {}
        """How far the readings in work are, by memory."""
        self._listeners: list[Listener] = []
        self._waiting: dict[str, asyncio.Queue[AnswerEvent]] = {}
        self._reading: str | None = None
        self._is_ready = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def questions(self) -> int:
        """Questions that wait or are being answered."""
        return len(self._waiting)

    @property
    def pid(self) -> int | None:
        """Process number of the worker."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the worker, and keep one running."""
        self._keeper = asyncio.create_task(self._keep(), name="videoxl-worker")

    async def stop(self) -> None:
        """End the worker. What it was reading is queued again by the next start."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        self._end_process()

    # ------------------------------------------------------------------------------------------------- requests

    @asynccontextmanager
    async def asking(self, ask: Ask) -> AsyncIterator[AsyncIterator[AnswerEvent]]:
        """Ask, and get what is said piece by piece; the last is :class:`Answered` or :class:`Failed`.

        Leaving early cancels the question.
        """
        if len(self._waiting) >= self._settings.limits.waiting_questions:
            raise ApiError(f"{len(self._waiting)} questions are waiting: ask again later", "queue_full")
        await self.until_ready()
        events: asyncio.Queue[AnswerEvent] = asyncio.Queue()
        self._waiting[ask.id] = events
        try:
            self._send(ask)
            yield _until_done(events)
        finally:
            if self._waiting.pop(ask.id, None) is not None and self._writer is not None:
                self._send(Cancel(ask.id))

    async def until_ready(self) -> None:
        """Wait until the model is loaded. Raises :class:`ApiError` where it takes too long, or never will be."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_ready.wait(), START_SECONDS)
        if self.gave_up:
            raise ApiError("the model cannot be loaded: the server's log says why", "worker_lost")
        if self.ready is None:
            raise ApiError("the model is being loaded", "worker_starting", retry_after=10)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener`` called for what happens to memories. Returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def read_next(self) -> None:
        """Begin the next reading, if none is in work."""
        if self._reading is not None or self.ready is None:
            return
        if (found := self._store.begin_next()) is None:
            return
        job, file = found
        self._reading = job.id
        path, target = str(self._store.path_of(file)), str(self._store.memory_path(job.key))
        seconds = self._settings.limits.video_seconds
        self._changed(job.id)
        self._send(Read(job.id, path, file.name, target, job.settings, seconds))

    def cancel(self, job: MemoryJob) -> None:
        """Stop a reading, or do not begin it."""
        if self._reading == job.id:
            self._send(Cancel(job.id))
        elif self._store.fail_memory(job.id, "cancelled", "cancelled before it was read"):
            self._changed(job.id)

    def forget(self, job: MemoryJob) -> None:
        """Let the worker let go of a memory whose file was removed."""
        self._send(Forget(str(self._store.memory_path(job.key))))

    def _send(self, request: Request) -> None:
        if self._writer is not None:
            self._writer.write(to_line(request))

    # -------------------------------------------------------------------------------------------- the process

    async def _keep(self) -> None:
        pause, failures = FIRST_PAUSE, 0
        while failures <= self._settings.restarts:
            worked = await self._run_once()
            failures, pause = (0, FIRST_PAUSE) if worked else (failures + 1, min(2 * pause, LONGEST_PAUSE))
            self.restarts += 1
            logger.warning("the worker ended; it is started again in %.1f s", pause)
            await asyncio.sleep(pause)
        self.gave_up = True
        self._is_ready.set()
        logger.error("the worker ended %d times in a row without having done anything", failures)

    async def _run_once(self) -> bool:
        """Run a worker until it ends. Returns whether it was of use."""
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), json.dumps(self._worker_settings())]
            self._process = await asyncio.create_subprocess_exec(
                *self._command, *arguments, pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE)
        was_ready = False
        try:
            async for line in reader:
                self._receive(line)
                was_ready = was_ready or self.ready is not None
        except (ConnectionError, ValueError) as error:
            logger.warning("the connection to the worker broke: %s", error)
        finally:
            self._lost()
        return was_ready

    def _worker_settings(self) -> dict[str, object]:
        chosen = self._settings
        found = {name: getattr(chosen, name) for name in ("model", "device", "dtype", "quantization", "hot_bytes")}
        return found

    def _lost(self) -> None:
        """Nothing hangs: questions fail, the reading is queued again."""
        self._end_process()
        self.ready = None
        self._is_ready.clear()
        for events in self._waiting.values():
            events.put_nowait(Failed("", "worker_lost", "the worker ended while it answered: ask again"))
        self._waiting.clear()
        if (reading := self._reading) is not None:
            self._reading = None
            self.progress.pop(reading, None)
            self._store.requeue_memory(reading)
            self._changed(reading)

    def _end_process(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    # ------------------------------------------------------------------------------------------------- replies

    def _receive(self, line: bytes) -> None:
        reply = from_line(line)
        if isinstance(reply, Ready):
            self.ready = reply
            self._is_ready.set()
            self.read_next()
        elif isinstance(reply, Progressed):
            self.progress[reply.id] = reply
            self._changed(reply.id, reply)
        elif isinstance(reply, ReadDone):
            self._store.finish_memory(reply.id, reply.facts)
            self._read_ended(reply.id)
        elif isinstance(reply, Failed) and reply.id == self._reading:
            self._store.fail_memory(reply.id, reply.code, reply.message)
            self._read_ended(reply.id)
        elif isinstance(reply, Said):
            self._pass_on(reply, last=False)
        elif isinstance(reply, Answered | Failed):
            self._pass_on(reply, last=True)

    def _pass_on(self, event: AnswerEvent, *, last: bool) -> None:
        waiting = self._waiting.pop(event.id, None) if last else self._waiting.get(event.id)
        if waiting is not None:
            waiting.put_nowait(event)

    def _read_ended(self, memory_id: str) -> None:
        self._reading = None
        self.progress.pop(memory_id, None)
        self._changed(memory_id)
        self.read_next()

    def _changed(self, memory_id: str, progress: Progressed | None = None) -> None:
        for listener in [*self._listeners]:
            listener(self._store.required_memory(memory_id), progress)


async def _until_done(events: asyncio.Queue[AnswerEvent]) -> AsyncIterator[AnswerEvent]:
    while True:
        event = await events.get()
        yield event
        if not isinstance(event, Said):
            return


def new_ask_id() -> str:
    """An id that no other question has."""
    return f"chatcmpl-{secrets.token_hex(12)}"
