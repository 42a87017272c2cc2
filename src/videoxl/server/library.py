"""The front's side of the search index: what is in it, what waits for it, and how a question is asked."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from starlette.concurrency import run_in_threadpool

from videoxl.catalogue import By, Catalogue, Filter, Hits, Video
from videoxl.catalogue.entries import Floats, Source
from videoxl.server.child import Child
from videoxl.server.problems import ApiError
from videoxl.server.protocol import (
    Embed,
    Embedded,
    Failed,
    Index,
    Indexed,
    IndexerReady,
    Message,
    QuestionModel,
    Unindex,
)
from videoxl.server.settings import ServerSettings
from videoxl.server.store import Store

logger = logging.getLogger(__name__)
COMMAND = [sys.executable, "-m", "videoxl.server.indexer"]
"""How the indexer is started, without its arguments."""
MAX_ATTEMPTS = 2
"""A file that took the indexer along so often is not tried again."""
MOST_VECTORS = 256
"""Vectors of questions that are kept: the next search is often the same."""
EMBED_SECONDS = 20.0
"""How long a search waits for the vector of its question."""
Status = Literal["queued", "indexed", "failed"]


@dataclass(frozen=True)
class IndexState:
    """Whether a file is in the index. ``reason``: why it is not, or not wholly."""

    status: Status
    reason: str | None = None
    tracks: tuple[str, ...] = ()


class Questions:
    """The model that reads questions, as the catalogue knows it: vectors come from the indexer beforehand."""

    def __init__(self, model: QuestionModel) -> None:
        self.name, self.fingerprint = model.name, model.fingerprint
        self.vectors: OrderedDict[str, Floats] = OrderedDict()

    def of_question(self, text: str) -> Floats:
        """The vector ``[D]`` of a question that was asked for before."""
        return self.vectors[text]

    def keep(self, text: str, vector: Floats) -> None:
        """Keep the vector of a question for a while."""
        self.vectors[text] = vector
        while len(self.vectors) > MOST_VECTORS:
            self.vectors.popitem(last=False)


class Library:
    """The index of all files and memories. :meth:`add` and :meth:`removed` may be called from any thread."""

    def __init__(self, settings: ServerSettings, store: Store) -> None:
        """Raises :class:`~videoxl.CatalogueError`."""
        self._settings, self._store = settings, store
        self._path = store.folder / "index.db"
        self._queue: deque[str] = deque()
        self._working: str | None = None
        self._attempts: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self._videos: dict[str, tuple[Video, tuple[str, ...]]] = {}
        self._models: dict[Source, Questions] = {}
        self._asked: dict[str, asyncio.Future[Floats]] = {}
        self._notes: list[str] = []
        self._gone: list[str] = []
        self._ready = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._child = Child(
            "indexer",
            COMMAND,
            most_restarts=settings.restarts,
            heard=self._heard,
            useful=lambda: self._ready,
            lost=self._lost,
        )
        self.catalogue: Catalogue | None = None
        if settings.index is not None:
            Catalogue(self._path, write=True).close()
            self.catalogue = Catalogue(self._path)

    @property
    def waiting(self) -> int:
        """Files that wait, or are in work."""
        return len(self._queue) + (self._working is not None)

    @property
    def pid(self) -> int | None:
        """Process number of the indexer."""
        return self._child.pid

    async def start(self) -> None:
        """Start the indexer. It looks at all that is kept: what is in the index already takes no time."""
        if self.catalogue is None or self._settings.index is None:
            return
        self._loop = asyncio.get_running_loop()
        self._store.on_kept, self._store.on_removed = self.add, self.removed
        paths = [str(path) for path in self._store.indexable()]
        for video in self.catalogue.videos():
            self._videos[video.path] = (video, tuple(self.catalogue.made(video.id)))
        known = set(paths)
        self._gone = [path for path in self._videos if path not in known]
        self._queue.extend(sorted(paths, key=lambda path: path in self._videos))
        await self._child.start(str(self._path), json.dumps(asdict(self._settings.index)))

    async def stop(self) -> None:
        """End the indexer. What it was at is begun anew by the next start."""
        await self._child.stop()
        if self.catalogue is not None:
            self.catalogue.close()

    # -------------------------------------------------------------------------------------------- what is in it

    def add(self, path: Path) -> None:
        """A file came, or a memory was read."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._add, str(path))

    def removed(self, path: Path) -> None:
        """A file or memory is gone."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._remove, str(path))

    def state(self, path: Path) -> IndexState | None:
        """Whether something is in the index; None: there is no index."""
        if self.catalogue is None:
            return None
        name = str(path)
        if (reason := self._failed.get(name)) is not None:
            return IndexState("failed", reason)
        if (found := self._videos.get(name)) is None:
            if self._child.gave_up:
                return IndexState("failed", "the process that indexes cannot be started: the server's log says why")
            return IndexState("queued")
        video, tracks = found
        if video.state == "failed":
            return IndexState("failed", video.problem)
        return IndexState("indexed", video.problem or None, tracks)

    def video_of(self, path: Path) -> int | None:
        """The number of something in the index."""
        found = self._videos.get(str(path))
        return None if found is None or found[0].state != "ready" else found[0].id

    def thumbnail(self, path: Path, time: float) -> bytes | None:
        """The picture nearest to a second, as JPEG."""
        video = self.video_of(path)
        return None if video is None or self.catalogue is None else self.catalogue.thumbnail(video, time)

    # --------------------------------------------------------------------------------------------------- search

    async def search(self, query: str, by: By, limit: int, where: Filter) -> Hits:
        """Ask the index. Raises :class:`ApiError`, and ``ValueError`` for what cannot be asked."""
        if self.catalogue is None:
            raise ApiError("this server keeps no index (it was started with --no-index)", "no_index")
        sources: tuple[Source, ...] = ("meaning", "frames") if by == "all" else () if by == "words" else (by,)
        for source in sources:
            if (model := self._models.get(source)) is not None:
                await self._read_question(source, model, query.strip())
        hits = await run_in_threadpool(self.catalogue.search, query, by=by, limit=limit, where=where)
        hits.notes = tuple(dict.fromkeys([*hits.notes, *(self._notes if by == "all" else [])]))
        return hits

    async def _read_question(self, source: Source, model: Questions, text: str) -> None:
        if text in model.vectors:
            model.vectors.move_to_end(text)
            return
        question = Embed(secrets.token_hex(8), source, text)
        answer: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._asked[question.id] = answer
        try:
            self._child.send(question)
            model.keep(text, await asyncio.wait_for(answer, EMBED_SECONDS))
        except TimeoutError:
            raise ApiError("the question could not be read in time: ask again", "server_busy") from None
        finally:
            self._asked.pop(question.id, None)

    # -------------------------------------------------------------------------------------------- the process

    def _add(self, path: str) -> None:
        self._failed.pop(path, None)
        self._attempts.pop(path, None)
        held = self._videos.get(path)
        if path not in self._queue and path != self._working and (held is None or held[0].state != "ready"):
            self._queue.append(path)
        self._next()

    def _remove(self, path: str) -> None:
        if path in self._queue:
            self._queue.remove(path)
        self._failed.pop(path, None)
        self._videos.pop(path, None)
        self._unindex([path])

    def _unindex(self, paths: Iterable[str]) -> None:
        if gone := [*paths]:
            self._child.send(Unindex(gone))

    def _next(self) -> None:
        if self._working is not None or not self._ready or not self._queue:
            return
        path = self._working = self._queue.popleft()
        given_up = ""
        if self._attempts.get(path, 0) >= MAX_ATTEMPTS:
            given_up = "the process that indexes ended each time it read this file"
        self._attempts[path] = self._attempts.get(path, 0) + 1
        self._child.send(Index(path, given_up))

    def _heard(self, message: Message) -> None:
        if isinstance(message, IndexerReady):
            models: list[tuple[Source, QuestionModel | None]] = [
                ("meaning", message.meaning),
                ("frames", message.frames),
            ]
            self._models = {source: Questions(model) for source, model in models if model is not None}
            self._notes, self._ready = message.notes, True
            if self.catalogue is not None:
                self.catalogue.models = {"meaning": None, "frames": None, **self._models}
            self._unindex(self._gone)
            self._gone = []
            self._next()
        elif isinstance(message, Indexed):
            self._was_indexed(message)
        elif isinstance(message, Embedded):
            if (waiting := self._asked.get(message.id)) is not None and not waiting.done():
                waiting.set_result(np.array(message.vector, np.float32))
        elif isinstance(message, Failed) and (waiting := self._asked.get(message.id)) is not None:
            waiting.set_exception(ApiError(message.message, message.code))

    def _was_indexed(self, done: Indexed) -> None:
        self._working = None
        self._attempts.pop(done.path, None)
        video = self.catalogue.video_at(done.path) if self.catalogue is not None else None
        if not Path(done.path).exists():  # removed meanwhile
            self._videos.pop(done.path, None)
            self._unindex([done.path])
        elif video is not None and self.catalogue is not None:
            self._videos[done.path] = (video, tuple(self.catalogue.made(video.id)))
        elif done.problem:
            self._failed[done.path] = done.problem
        self._next()

    def _lost(self) -> None:
        """Nothing hangs: the file in work is begun anew, questions that wait for a vector fail."""
        self._ready = False
        self._models = {}
        if self.catalogue is not None:
            self.catalogue.models = {"meaning": None, "frames": None}
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ApiError("the process that reads questions ended: ask again", "worker_lost"))
        if self._working is not None:
            self._queue.appendleft(self._working)
            self._working = None
