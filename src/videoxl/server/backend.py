"""The workers of a front: which of them reads what and answers what, and what becomes of their work when one ends."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from videoxl.server.problems import ApiError
from videoxl.server.protocol import STREAM, Ask, Cancel, Failed, Forget, Progressed, Read, ReadDone, Ready, Reply
from videoxl.server.settings import ServerSettings
from videoxl.server.store import MemoryJob, Store
from videoxl.server.streams import StreamDesk
from videoxl.server.worker_process import AnswerEvent, WorkerProcess

logger = logging.getLogger(__name__)
START_SECONDS = 120.0
"""How long a question waits for a model that is being loaded, at most."""
RETRY_SECONDS = 1.0
"""When a change of the catalogue is tried again that could not be written."""
KNOWN_HOMES = 100_000
"""Memories of which is known which worker has them; those that were not asked longest are forgotten first."""

Listener = Callable[[MemoryJob, Progressed | None], None]


class Backend:
    """One worker process a device. Made and used within one event loop.

    A memory lives on one worker: the one that read it, or else the least busy one when it is first asked. Questions
    about it go there, as long as that worker lives; another one then loads it from its file.
    """

    def __init__(self, settings: ServerSettings, store: Store, command: list[str] | None = None) -> None:
        """``command``: of a worker, without its two arguments."""
        self._settings, self._store = settings, store
        command = command or [sys.executable, "-m", "videoxl.server.worker"]
        places = enumerate(settings.places)
        self.workers = [WorkerProcess(number, device, settings, command, self) for number, device in places]
        self.progress: dict[str, Progressed] = {}
        """How far the readings in work are, by memory."""
        self._listeners: list[Listener] = []
        self._homes: OrderedDict[str, WorkerProcess] = OrderedDict()
        self._starting = 0
        """Questions that wait for a model to be loaded."""
        self._cancelled: dict[tuple[int, str], str] = {}
        """Readings in work that nobody wants any more: worker and memory, with the memory's key."""
        self.streams = StreamDesk(settings)
        self._some_ready = asyncio.Event()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def ready(self) -> Ready | None:
        """What is loaded; the same in all workers. None while there is none that works."""
        return next((worker.ready for worker in self.workers if worker.ready is not None), None)

    @property
    def gave_up(self) -> bool:
        """Whether no worker is started again."""
        return all(worker.gave_up for worker in self.workers)

    @property
    def restarts(self) -> int:
        """How often a worker was started again."""
        return sum(worker.restarts for worker in self.workers)

    @property
    def questions(self) -> int:
        """Questions that wait or are being answered."""
        return self._starting + sum(worker.questions for worker in self.workers)

    async def start(self) -> None:
        """Start the workers, and keep them running."""
        self._loop = asyncio.get_running_loop()
        for worker in self.workers:
            await worker.start()

    async def stop(self) -> None:
        """End the workers. What they were reading is queued again by the next start."""
        self._stopping = True
        await asyncio.gather(*(worker.stop() for worker in self.workers))

    # ------------------------------------------------------------------------------------------------- requests

    @asynccontextmanager
    async def asking(self, ask: Ask) -> AsyncIterator[AsyncIterator[AnswerEvent]]:
        """Ask, and get what is said piece by piece; the last is :class:`Answered` or :class:`Failed`.

        Leaving early cancels the question.
        """
        if self.questions >= self._settings.limits.waiting_questions:
            raise ApiError(f"{self.questions} questions are waiting: ask again later", "queue_full")
        self._starting += 1
        try:
            await self.until_ready()
        finally:
            self._starting -= 1
        async with self._home(ask.memory).asking(ask) as events:
            yield events

    async def until_ready(self) -> None:
        """Wait until a model is loaded. Raises :class:`ApiError` where it takes too long, or never will be."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._some_ready.wait(), START_SECONDS)
        if self.gave_up:
            raise ApiError("the model cannot be loaded: the server's log says why", "worker_lost")
        if self.ready is None:
            raise ApiError("the model is being loaded", "worker_starting", retry_after=10)

    def hand_out_streams(self) -> None:
        """Have streams watched that nobody watches yet."""
        if not self._stopping:
            self.streams.hand_out(self.workers)

    def _home(self, memory: str) -> WorkerProcess:
        """The worker that has a memory, or gets it now; of a stream, the one that watches it."""
        if memory.startswith(STREAM):
            watching = self.streams.home_of(memory.removeprefix(STREAM))
            if watching is None:
                raise ApiError("this stream is not being watched now: ask later", "stream_not_watched")
            return watching
        home = self._homes.get(memory)
        if home is None or home.ready is None:
            home = min((one for one in self.workers if one.ready is not None), key=lambda one: one.load)
        self._lives(memory, home)
        return home

    def _lives(self, memory: str, worker: WorkerProcess) -> None:
        if (before := self._homes.get(memory)) not in (None, worker):
            before.send(Forget(memory))
        self._homes[memory] = worker
        self._homes.move_to_end(memory)
        if len(self._homes) > KNOWN_HOMES:
            self._homes.popitem(last=False)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener`` called for what happens to memories. Returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def wake(self) -> None:
        """The same as :meth:`read_next`, from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.read_next)

    def read_next(self) -> None:
        """Begin the readings that wait longest, one on each worker that reads nothing; the least busy one first."""
        self._until_written(self._read_next)

    def _read_next(self) -> None:
        if self._stopping:
            return
        idle = [worker for worker in self.workers if worker.ready is not None and worker.reading is None]
        for worker in sorted(idle, key=lambda one: one.load):
            if (found := self._store.begin_next()) is None:
                return
            job, file = found
            worker.reading = job.id
            path, target = str(self._store.path_of(file)) if file else "", str(self._store.memory_path(job.key))
            name = file.name if file else job.id
            self._lives(target, worker)
            self._changed(job.id)
            worker.send(Read(job.id, path, name, target, job.settings, self._settings.limits.video_seconds))

    def cancel(self, job: MemoryJob) -> None:
        """Stop a reading, or do not begin it. It counts as cancelled at once, whatever becomes of the server."""
        at = [worker for worker in self.workers if worker.reading == job.id]
        if self._store.fail_memory(job.id, "cancelled", "cancelled before it was read to its end"):
            for worker in at:
                self._cancelled[worker.number, job.id] = job.key
                worker.send(Cancel(job.id))
            self._changed(job.id)

    def forget(self, job: MemoryJob) -> None:
        """Let the workers let go of a memory whose file was removed."""
        path = str(self._store.memory_path(job.key))
        self._homes.pop(path, None)
        for worker in self.workers:
            worker.send(Forget(path))

    # ----------------------------------------------------------------------------------- what workers tell (Owner)

    def on_ready(self, worker: WorkerProcess) -> None:
        """Begin readings, unless the worker computes other numbers than the first one."""
        told = {one.ready.fingerprint for one in self.workers if one.ready is not None}
        if len(told) > 1:
            worker.give_up()
            raise ValueError(f"the model on {worker.device} is not the one of the other workers: it is not used")
        self._some_ready.set()
        self.read_next()
        self.hand_out_streams()

    def on_reply(self, worker: WorkerProcess, reply: Reply) -> None:
        """Note how far a reading is, and what happens in a stream."""
        if self.streams.on_reply(reply):
            return
        if isinstance(reply, Progressed):
            if (worker.number, reply.id) not in self._cancelled:
                self.progress[reply.id] = reply
                self._changed(reply.id, reply)
        elif isinstance(reply, ReadDone | Failed):
            self._until_written(lambda: self._settle(worker, reply))

    def _settle(self, worker: WorkerProcess, reply: ReadDone | Failed) -> None:
        if (key := self._cancelled.get((worker.number, reply.id))) is not None:
            self._store.remove_unmade(key)
        elif isinstance(reply, ReadDone):
            self._store.finish_memory(reply.id, reply.facts)
        else:
            self._store.fail_memory(reply.id, reply.code, reply.message)
        self._read_ended(worker, reply.id)

    def on_ended(self, worker: WorkerProcess) -> None:
        """Queue the reading of a worker again; those of others go on."""
        self.streams.on_ended(worker)
        self.hand_out_streams()
        if self.gave_up:
            self._some_ready.set()  # whoever waits is told
        elif self.ready is None:
            self._some_ready.clear()
        if (reading := worker.reading) is not None:
            self._until_written(lambda: self._read_again(worker, reading))

    def _read_again(self, worker: WorkerProcess, reading: str) -> None:
        if (worker.number, reading) not in self._cancelled:
            self._store.requeue_memory(reading)
        self._read_ended(worker, reading)

    def _read_ended(self, worker: WorkerProcess, memory_id: str) -> None:
        self._cancelled.pop((worker.number, memory_id), None)
        if worker.reading == memory_id:
            worker.reading = None
        self.progress.pop(memory_id, None)
        self._changed(memory_id)
        self.read_next()

    def _until_written(self, change: Callable[[], None]) -> None:
        """Do what changes the catalogue, now or as soon as it can be written: it may be locked, or the disk full."""
        try:
            change()
        except sqlite3.Error as error:
            logger.error("the catalogue cannot be written, which is tried again: %s", error)
            if not self._stopping:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._until_written, change)

    def _changed(self, memory_id: str, progress: Progressed | None = None) -> None:
        for listener in [*self._listeners]:
            if (job := self._store.any_memory(memory_id)) is not None:  # it may be deleted meanwhile
                listener(job, progress)


def new_ask_id() -> str:
    """An id that no other question has."""
    return f"chatcmpl-{secrets.token_hex(12)}"
