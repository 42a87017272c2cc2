"""What the routes share: the store, the worker, the settings, and who asks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from videoxl.config import Sampling, prefill_from_string
from videoxl.server.backend import Backend
from videoxl.server.fetching import Fetcher
from videoxl.server.guard import Links
from videoxl.server.incoming import Room
from videoxl.server.library import Library
from videoxl.server.problems import ApiError, missing
from videoxl.server.protocol import Progressed
from videoxl.server.schemas import MemoryObject, MemoryProblem, MemoryProgress, MemoryStatus, ReadSettings
from videoxl.server.settings import ServerSettings
from videoxl.server.shared import SharedMemories
from videoxl.server.store import MemoryJob, Store, StoredFile, memory_id_of
from videoxl.server.streams import StreamDesk
from videoxl.settings import from_plain


@dataclass(frozen=True)
class Services:
    """Made once, for all requests."""

    settings: ServerSettings
    store: Store
    backend: Backend
    links: Links
    fetcher: Fetcher
    library: Library
    shared: SharedMemories | None = None

    @property
    def streams(self) -> StreamDesk:
        """The streams that are watched."""
        return self.backend.streams

    def file(self, file_id: str, owner: str) -> StoredFile:
        """A file of this owner. Raises :class:`ApiError` (404)."""
        if (found := self.store.file(file_id, owner)) is None:
            raise missing("file", file_id, "file_missing")
        return found

    def memory(self, memory_id: str, owner: str) -> MemoryJob:
        """A memory of this owner. Raises :class:`ApiError` (404)."""
        if (found := self.store.memory(memory_id, owner)) is None:
            raise missing("memory", memory_id, "memory_not_found")
        return found

    def known_memory(self, memory_id: str, owner: str) -> MemoryJob:
        """A memory of this owner, also one that another server has read, which is fetched then. Takes its time.

        Raises :class:`ApiError` (404).
        """
        if self.shared is not None and self.store.memory(memory_id, owner) is None:
            found = self.shared.find(memory_id)
            if found is not None and memory_id == memory_id_of(owner, found.key):
                self.store.adopt_memory(owner, found.sha256, found.key, found.settings, found.facts)
                self.backend.wake()
        return self.memory(memory_id, owner)

    def room(self, owner: str, most: int) -> Room:
        """How large another file of an owner may be, ``most`` at most."""
        return Room(most, self.settings.limits.stored_bytes - self.store.stored_bytes(owner))

    async def read(self, file: StoredFile, settings: ReadSettings) -> MemoryJob:
        """The memory of a file: as it is, or as it will be when the worker has come to it."""
        chosen = self._checked(settings)
        await self.backend.until_ready()
        if self.backend.ready is None:
            raise ApiError("the model is being loaded", "worker_starting")
        facts = [file.sha256, dict(sorted(chosen.items())), self.backend.ready.fingerprint]
        if (index := self.settings.index) is not None and index.frames is not None:
            facts.append(index.frames)
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]
        if not self.store.is_made(file.owner, key):
            self._require_a_place(file.owner)
        job = self.store.add_memory(file, key, chosen)
        self.backend.read_next()
        return self.store.required_memory(job.id)

    def _require_a_place(self, owner: str) -> None:
        """Raise :class:`ApiError` where no other reading may wait, or no other memory be kept."""
        limits = self.settings.limits
        if self.store.waiting() >= limits.waiting_memories:
            raise ApiError(f"{limits.waiting_memories} readings are waiting: ask again later", "queue_full")
        if self.store.count_memories(owner) >= limits.memories:
            raise ApiError(f"this key keeps at most {limits.memories} memories: delete some", "quota_exceeded")
        self.room(owner, 1).require(1)

    def _checked(self, settings: ReadSettings) -> dict[str, Any]:
        chosen = {name: value for name in ReadSettings.model_fields if (value := getattr(settings, name)) is not None}
        plain = {name: value for name, value in chosen.items() if name not in ("prefill", "subtitles")}
        most = self.settings.limits.video_frames
        try:
            from_plain(Sampling, plain)
            if (prefill := chosen.get("prefill")) is not None:
                chosen["prefill"] = str(prefill_from_string(prefill))
        except ValueError as error:
            raise ApiError(str(error), "invalid_value") from None
        if (frames := max(plain.get("max_frames", 0), plain.get("num_frames", 0))) > most:
            raise ApiError(f"a memory here reads at most {most:,} frames, got {frames:,}", "limits_frames", 422)
        if "num_frames" not in chosen:
            chosen.setdefault("max_frames", min(most, Sampling.DEFAULT_MAX_FRAMES))
        return chosen

    def memory_object(self, job: MemoryJob, progress: Progressed | None = None) -> MemoryObject:
        """A memory as clients see it."""
        told = progress or self.backend.progress.get(job.id)
        error = None
        if job.error_code is not None:
            error = MemoryProblem(code=job.error_code, message=job.error_message or "")
        return MemoryObject(
            id=job.id,
            status=cast(MemoryStatus, job.status),
            file_id=job.file_id,
            created_at=int(job.created),
            settings=job.settings,
            progress=MemoryProgress(phase=told.phase, done=told.done, total=told.total)
            if told and job.status == "in_progress"
            else None,
            error=error,
            **job.facts,
        )


async def services_of(request: Request) -> Services:
    """The services of the app that serves this request."""
    found: Services = request.app.state.services
    return found


async def owner_of(request: Request) -> str:
    """Whose key came with this request."""
    found: str = request.scope["owner"]
    return found


Serving = Annotated[Services, Depends(services_of)]
Owner = Annotated[str, Depends(owner_of)]
