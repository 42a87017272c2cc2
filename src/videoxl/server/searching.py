"""A search as one owner may make it: in which files and memories, and what is told about what was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool

from videoxl.catalogue import Filter, Hit
from videoxl.catalogue.page import parts_of
from videoxl.server.problems import ApiError
from videoxl.server.schemas import (
    NotSearched,
    SearchHit,
    SearchReply,
    SearchRequest,
    SearchScope,
    SourceScores,
    TextRun,
)
from videoxl.server.services import Services
from videoxl.server.store import MemoryJob, StoredFile

MOST = 1000
"""Hits that are looked through where some of them may lie outside of what was asked for."""
TOLD = 100
"""Files and memories that were not searched are named, up to so many."""


@dataclass
class Scope:
    """Files and memories that are searched."""

    files: dict[Path, StoredFile] = field(default_factory=dict)
    """By where they lie: those whose words may be found."""
    memories: dict[Path, MemoryJob] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    """Ids of the files of which all is searched, also what no memory holds."""
    of_file: defaultdict[str, list[MemoryJob]] = field(default_factory=lambda: defaultdict(list))
    """Memories of each file, the newest first."""
    unread: list[NotSearched] = field(default_factory=list)
    """Memories that are not ready."""

    def add_memory(self, serving: Services, job: MemoryJob) -> None:
        """Let a memory be searched."""
        self.memories[serving.store.memory_path(job.key)] = job
        self.of_file[job.file_id].append(job)

    def memory_at(self, file: StoredFile, hit: Hit) -> MemoryJob | None:
        """The newest memory that holds a moment of a file."""
        return next((job for job in self.of_file[file.id] if _holds(job, hit)), None)

    @property
    def is_cut(self) -> bool:
        """Whether the index may find what is outside of it."""
        return any(file.id not in self.whole for file in self.files.values())


def scope_of(serving: Services, owner: str, wanted: SearchScope) -> Scope:
    """What is searched. Raises :class:`ApiError` (404) for an id that is not this owner's."""
    scope, store = Scope(), serving.store
    if wanted.memory_ids is None and wanted.file_ids is None:
        files = store.files(owner)
        jobs = [job for job in store.memories(owner) if job.status == "ready"]
    else:
        files = [serving.file(one, owner) for one in dict.fromkeys(wanted.file_ids or [])]
        named = [serving.memory(one, owner) for one in dict.fromkeys(wanted.memory_ids or [])]
        scope.unread = [
            NotSearched(id=job.id, status="queued", reason=f"this memory is {job.status.replace('_', ' ')}")
            for job in named
            if job.status != "ready"
        ]
        chosen = {job.id for job in named}
        whole = {file.id for file in files}
        jobs = [
            job for job in store.memories(owner) if job.status == "ready" and (job.id in chosen or job.file_id in whole)
        ]
    scope.whole = {file.id for file in files}
    for file in files:
        scope.files[store.path_of(file)] = file
    for job in jobs:
        scope.add_memory(serving, job)
        if job.file_id not in scope.whole and (its := store.file(job.file_id, owner)) is not None:
            scope.files[store.path_of(its)] = its
    return scope


async def search(serving: Services, owner: str, wanted: SearchRequest) -> SearchReply:
    """Look for moments in what an owner has. Raises :class:`ApiError`."""
    scope = await run_in_threadpool(scope_of, serving, owner, wanted)
    library = serving.library
    ids = [one for path in (*scope.files, *scope.memories) if (one := library.video_of(path)) is not None]
    limit = MOST if scope.is_cut else min(MOST, 2 * wanted.limit)
    try:
        where = Filter(
            videos=frozenset(ids),
            tracks=None if wanted.tracks is None else frozenset(wanted.tracks),
            start=wanted.from_,
            end=wanted.to,
        )
        hits = await library.search(wanted.query, wanted.by, limit, where)
    except ValueError as error:
        raise ApiError(str(error), "invalid_value") from None
    left = [*_not_searched(serving, scope)]
    notes = [note for note in hits.notes if ids or "holds no track" not in note]
    return SearchReply(
        data=await run_in_threadpool(_told, serving, owner, scope, hits, wanted.limit),
        searched_files=sum(library.video_of(path) is not None for path in scope.files),
        searched_memories=len(scope.memories),
        not_searched=left[:TOLD],
        not_searched_total=len(left),
        notes=notes if ids else ["nothing is in the index yet", *notes],
    )


def _told(serving: Services, owner: str, scope: Scope, hits: list[Hit], limit: int) -> list[SearchHit]:
    """What was found, as clients see it; each moment of a video once, though several memories may hold it."""
    told: list[SearchHit] = []
    seen: list[tuple[str, float, float]] = []
    for hit in hits:
        path = Path(hit.path)
        job = scope.memories.get(path)
        file = scope.files.get(path) if job is None else serving.store.file(job.file_id, owner)
        if job is None:
            if file is None:
                continue
            job = scope.memory_at(file, hit)
            if job is None and file.id not in scope.whole:
                continue
        elif hit.track == "frames":
            if any(one == job.file_id and start < hit.end and hit.start < end for one, start, end in seen):
                continue
            seen.append((job.file_id, hit.start, hit.end))
        told.append(_hit(serving, owner, hit, file, job))
        if len(told) == limit:
            break
    return told


def _hit(serving: Services, owner: str, hit: Hit, file: StoredFile | None, job: MemoryJob | None) -> SearchHit:
    return SearchHit(
        memory_id=job.id if job else None,
        file_id=file.id if file else None,
        filename=file.name if file else job.id if job else "",
        start=hit.start,
        end=hit.end,
        track=hit.track,
        text=hit.text,
        parts=[TextRun(text=text, marked=marked) for text, marked in parts_of(hit.text, hit.marks)],
        score=hit.score,
        scores=SourceScores(words=hit.scores.words, meaning=hit.scores.meaning, frames=hit.scores.frames),
        thumbnail_url=_thumbnail(serving, owner, file, hit.start) if file else None,
    )


def _thumbnail(serving: Services, owner: str, file: StoredFile, time: float) -> str | None:
    if serving.library.thumbnail(serving.store.path_of(file), time) is None:
        return None
    path = f"/v1/files/{quote(file.id)}/thumbnails/{int(1000 * time)}"
    return f"{path}?{serving.links.query(path, owner)}"


def _holds(job: MemoryJob, hit: Hit) -> bool:
    start, end = job.settings.get("start"), job.settings.get("end")
    return (start is None or hit.end >= start) and (end is None or hit.start <= end)


def _not_searched(serving: Services, scope: Scope) -> Iterator[NotSearched]:
    """Yield what is not in the index, and what is there in part."""
    yield from scope.unread
    for path, file in scope.files.items():
        found = serving.library.state(path)
        if found is not None and (found.status != "indexed" or found.reason):
            reason = found.reason and found.reason.replace(file.sha256, file.name)
            yield NotSearched(id=file.id, status=found.status, reason=reason)
    for path, job in scope.memories.items():
        found = serving.library.state(path)
        if found is not None and (found.status != "indexed" or found.reason):
            yield NotSearched(id=job.id, status=found.status, reason=found.reason)
