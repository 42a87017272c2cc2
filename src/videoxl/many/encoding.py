"""``videoxl.encode_many``: read many videos once, and keep a memory of each in a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from videoxl.errors import MemoryFileError
from videoxl.inference.progress import Progress, as_progress
from videoxl.many.answering import WORKERS, Videos, actors_of
from videoxl.many.on_ray import Actors, require_ray, rows_on_ray
from videoxl.many.places import Place, is_whole, place_of
from videoxl.many.reading import Opened, Reading, memory_of
from videoxl.many.record import MemoryRecord
from videoxl.many.row_file import RowFile
from videoxl.many.run import Task, begin, loader
from videoxl.many.sources import Columns, VideoJob, find_videos
from videoxl.memory.file.load import StoredMemory
from videoxl.memory.file.save import check_save
from videoxl.memory.video_memory import VideoMemory
from videoxl.storage import StoragePath, copied, scratch

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL

SaveDtype = Literal["auto", "bf16", "int8", "fp8"]
Level = Literal["dense", "pooled"]
INDEX = "memories.jsonl"
"""The rows of a run, in the folder of the memories."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How memories are written; see :meth:`VideoMemory.save`."""

    reading: Reading
    folder: Place
    dtype: SaveDtype = "auto"
    level: Level = "dense"
    resume: bool = False
    by_key: bool = False
    """Name every file by video and settings, so that one that is there needs no row to be known."""
    owned: Mapping[str, str] = field(default_factory=dict)
    """Key of a finished row -> its file, which may be replaced where it is damaged."""
    plain: Mapping[str, str] = field(default_factory=dict)
    """Name of a film without its ending -> the only video of the run that may take it for its memory."""

    def of_run(self, jobs: Iterable[VideoJob], rows: Iterable[MemoryRecord]) -> Saving:
        """The same for a run over ``jobs`` that goes on from ``rows``. Names are given out before the work begins."""
        plain: dict[str, str] = {}
        for job in jobs:
            plain.setdefault(stem_of(job.video), job.video)
        return replace(self, owned={row.key: row.memory for row in rows if row.memory}, plain=plain)

    def work(self, engine: VideoXL) -> MemoryWork:
        """What is done with each video."""
        return MemoryWork(engine, self)

    def noted(self, engine: VideoXL) -> dict[str, Any]:
        """What a memory file depends on, as plain values."""
        return {**self.reading.noted(engine), "saved_as": self.dtype, "level": self.level}


@dataclass(frozen=True)
class MemoryWork:
    """Reads a video and writes its memory."""

    engine: VideoXL
    saving: Saving

    def questions(self, job: VideoJob) -> Sequence[str]:
        """A video has one row."""
        return ("",)

    def rows(self, task: Task, questions: Sequence[str], opened: Opened) -> Iterator[MemoryRecord]:
        """Read the video and save its memory."""
        if (kept := self._kept(task)) is not None:
            opened.close()
            yield kept
            return
        with memory_of(self.engine, opened, self.saving.reading) as memory:
            target = self._target(task, memory)
            size, warnings = self._write(memory, target), list(memory.warnings)
            yield MemoryRecord.of(
                memory.usage, memory=str(target), file_bytes=size, warnings=warnings, **self._known(task)
            )

    def _kept(self, task: Task) -> MemoryRecord | None:
        """The row of a whole file that a killed run has left without one."""
        target = self._keyed(task)
        if not (self.saving.resume and self.saving.by_key and target.exists()):
            return None
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(copied(target)) if isinstance(target, StoragePath) else target
            try:
                stored = StoredMemory.open(path)
                stored.file.verify()
            except MemoryFileError:
                return None
            known, size = self._known(task), os.path.getsize(path)
            warnings = list(stored.warnings)
            return MemoryRecord.of(stored.usage, memory=str(target), file_bytes=size, warnings=warnings, **known)

    def _keyed(self, task: Task) -> Place:
        return self.saving.folder / f"{stem_of(task.job.video)}-{task.key()[:8]}.vxl"

    def _write(self, memory: VideoMemory, target: Place) -> int:
        """Write a memory file, whole or not at all. Returns its bytes."""
        how = self.saving
        if not isinstance(target, StoragePath):
            memory.save(target, dtype=how.dtype, level=how.level)
            return os.path.getsize(target)
        with scratch() as folder:
            local = folder / target.name
            memory.save(local, dtype=how.dtype, level=how.level)
            target.upload(local)
            return os.path.getsize(local)

    def _target(self, task: Task, memory: VideoMemory) -> Place:
        """``film.vxl``; where that is another's, with the beginning of the row's key: ``film-1a2b3c4d.vxl``.

        A damaged file of a finished row is replaced.
        """
        how, key, stem = self.saving, task.key(), stem_of(task.job.video)
        if (own := how.owned.get(key)) is not None:
            return place_of(own)
        plain = how.folder / f"{stem}.vxl"
        if how.by_key:
            return self._keyed(task)
        mine = how.plain.get(stem, task.job.video) == task.job.video
        if mine and (not plain.exists() or (how.resume and _holds(plain, memory))):
            return plain
        return self._keyed(task)

    def holds(self, row: MemoryRecord) -> bool:
        """Whether the memory file is there, and all of its checksums are right."""
        return row.memory is not None and is_whole(row.memory, row.file_bytes)

    def failed(self, task: Task, question: str, error: str) -> MemoryRecord:
        """The row of a video without a memory."""
        return MemoryRecord(memory=None, error=error, **self._known(task))

    def _known(self, task: Task) -> dict[str, Any]:
        model = self.engine.model_id.name
        return {"video": task.job.video, "model": model, "key": task.key(), "settings": task.settings}


def encode_many(
    videos: Videos,
    folder: str | os.PathLike[str],
    *,
    model: VideoXL | str,
    resume: bool = False,
    workers: int = WORKERS,
    dtype: SaveDtype = "auto",
    level: Level = "dense",
    columns: Columns | None = None,
    progress: bool | Progress = False,
    ray: bool | Actors = False,
    **encode: Any,
) -> Iterator[MemoryRecord]:
    """Read many videos, and keep a memory of each as ``folder/NAME.vxl``, with a list of them: ``memories.jsonl``.

    The work is done while the result is iterated over. A video that fails gives a record with an ``error``.

    Args:
        videos, model, workers, columns, progress, ray: see :func:`answer_many`.
        resume: go on with what is there. A memory whose checksums are wrong is made anew.
        folder: is made where it does not exist; or in a storage (``s3://bucket/memories``). A file in it that is not
            this run's is never replaced.
        dtype, level: see :meth:`VideoMemory.save`.
        encode: keywords of :meth:`VideoXL.encode`, the same for all videos.

    Yields:
        A record for each video, also for those that were finished before.
    """
    saving = Saving(reading=Reading.of(encode), folder=place_of(folder), dtype=dtype, level=level, resume=resume)
    check_save(dtype, level)
    saving.reading.require_shared()
    jobs = find_videos(videos, (), columns).jobs
    return write_memories(
        jobs,
        saving,
        loader(model),
        workers=workers,
        progress=as_progress(progress),
        actors=actors_of(ray, model),
    )


def write_memories(
    jobs: Sequence[VideoJob],
    saving: Saving,
    load: Callable[[], VideoXL],
    *,
    workers: int = WORKERS,
    progress: Progress,
    actors: Actors | None = None,
) -> Iterator[MemoryRecord]:
    """Read the videos of ``jobs``; see :func:`encode_many`. ``load`` is called when everything else is right."""
    if actors is not None:
        require_ray()
    file = RowFile(saving.folder / INDEX, MemoryRecord, resume=saving.resume)
    if isinstance(saving.folder, StoragePath) and saving.resume:
        saving.folder.remove_leftovers()
    saving = saving.of_run(jobs, file.rows)
    if actors is not None:
        saving = replace(saving, by_key=True)
        return rows_on_ray(jobs, saving, load, file=file, actors=actors, progress=progress)
    return begin(jobs, saving, load, file=file, workers=workers, progress=progress)


def stem_of(video: str) -> str:
    """``film`` of ``films/film.mp4`` or ``s3://films/film.mp4``."""
    return Path(video).stem


def _holds(place: Place, memory: VideoMemory) -> bool:
    """Whether a file holds this very memory: a run was killed after it had written the file, and before its row."""
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(copied(place)) if isinstance(place, StoragePath) else place
        try:
            stored = StoredMemory.open(path)
        except MemoryFileError:
            return False
    old, new = stored.usage, memory.usage
    same = (old.digest, old.sampling, stored.prefill) == (new.digest, new.sampling, memory.prefill)
    return same and new.digest is not None and stored.model_id.fingerprint == memory.model_fingerprint
