"""``videoxl.encode_many``: read many videos once, and keep a memory of each in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from videoxl.errors import MemoryFileError
from videoxl.inference.progress import Progress, as_progress
from videoxl.many.answering import WORKERS, Videos
from videoxl.many.reading import Opened, Reading, memory_of
from videoxl.many.record import MemoryRecord
from videoxl.many.row_file import RowFile
from videoxl.many.run import Task, begin, loader
from videoxl.many.sources import Columns, VideoJob, find_videos
from videoxl.memory.file.load import StoredMemory
from videoxl.memory.file.save import check_save
from videoxl.memory.video_memory import VideoMemory

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
    folder: Path
    dtype: SaveDtype = "auto"
    level: Level = "dense"
    resume: bool = False

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
        with memory_of(self.engine, opened, self.saving.reading) as memory:
            target = self._target(task, memory)
            memory.save(target, dtype=self.saving.dtype, level=self.saving.level)
            size, warnings = os.path.getsize(target), list(memory.warnings)
            yield MemoryRecord.of(
                memory.usage, memory=str(target), file_bytes=size, warnings=warnings, **self._known(task)
            )

    def _target(self, task: Task, memory: VideoMemory) -> Path:
        """``film.vxl``; where that is another's, with the beginning of the row's key: ``film-1a2b3c4d.vxl``."""
        stem = Path(task.job.video).stem
        plain = self.saving.folder / f"{stem}.vxl"
        if not plain.exists() or (self.saving.resume and _holds(plain, memory)):
            return plain
        return self.saving.folder / f"{stem}-{task.key()[:8]}.vxl"

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
    **encode: Any,
) -> Iterator[MemoryRecord]:
    """Read many videos, and keep a memory of each as ``folder/NAME.vxl``, with a list of them: ``memories.jsonl``.

    The work is done while the result is iterated over. A video that fails gives a record with an ``error``.

    Args:
        videos, model, resume, workers, columns, progress: see :func:`answer_many`.
        folder: is made where it does not exist. A file in it that is not this run's is never replaced.
        dtype, level: see :meth:`VideoMemory.save`.
        encode: keywords of :meth:`VideoXL.encode`, the same for all videos.

    Yields:
        A record for each video, also for those that were finished before.
    """
    saving = Saving(reading=Reading.of(encode), folder=Path(folder), dtype=dtype, level=level, resume=resume)
    check_save(dtype, level)
    saving.reading.require_shared()
    jobs = find_videos(videos, (), columns).jobs
    return write_memories(jobs, saving, loader(model), workers=workers, progress=as_progress(progress))


def write_memories(
    jobs: Sequence[VideoJob],
    saving: Saving,
    load: Callable[[], VideoXL],
    *,
    workers: int = WORKERS,
    progress: Progress,
) -> Iterator[MemoryRecord]:
    """Read the videos of ``jobs``; see :func:`encode_many`. ``load`` is called when everything else is right."""
    file = RowFile(saving.folder / INDEX, MemoryRecord, resume=saving.resume)
    return begin(jobs, saving, load, file=file, workers=workers, progress=progress)


def _holds(path: Path, memory: VideoMemory) -> bool:
    """Whether a file holds this very memory: a run was killed after it had written the file, and before its row."""
    try:
        stored = StoredMemory.open(path)
    except MemoryFileError:
        return False
    old, new = stored.usage, memory.usage
    same = (old.digest, old.sampling, stored.prefill) == (new.digest, new.sampling, memory.prefill)
    return same and new.digest is not None and stored.model_id.fingerprint == memory.model_fingerprint
