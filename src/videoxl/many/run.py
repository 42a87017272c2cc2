"""One loop for everything that is done with many videos: what is finished is skipped, the rest is done and written."""

from __future__ import annotations

import filecmp
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol

import torch

from videoxl.errors import ManyVideosError, SystemResourceError, VideoError, VideoXLError
from videoxl.inference.progress import Progress
from videoxl.many.ahead import Ahead
from videoxl.many.reading import Opened, Reading, open_ahead
from videoxl.many.record import Json, R, key_of
from videoxl.many.row_file import RowFile
from videoxl.many.sources import VideoJob, digest_of

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL

logger = logging.getLogger(__name__)
FAILURES = (VideoXLError, ValueError, OSError, MemoryError, torch.OutOfMemoryError)
"""Errors that are one video's. Any other ends the run: it would fail the next video too."""


@dataclass(frozen=True)
class Task:
    """A job, with what tells its rows from all others."""

    job: VideoJob
    settings: Json
    digest: str | None
    """None: the video cannot be read, and ``problem`` says why."""
    problem: str | None = None

    def key(self, question: str = "") -> str:
        """Key of the row of a question."""
        content = self.digest if self.digest is not None else f"unreadable: {self.job.video}: {self.job.problem}"
        return key_of(content, self.settings, question)


class How(Protocol[R]):
    """The settings of a run."""

    @property
    def reading(self) -> Reading: ...
    def noted(self, engine: VideoXL) -> Json:
        """What the rows depend on, as plain values."""

    def work(self, engine: VideoXL) -> Work[R]:
        """What is done with each video."""


class Work(Protocol[R]):
    """What is done with one video."""

    def questions(self, job: VideoJob) -> Sequence[str]:
        """What its rows are about, one each."""

    def rows(self, task: Task, questions: Sequence[str], opened: Opened) -> Iterator[R]:
        """Do the work for some of the questions, of an opened video, which the work closes."""

    def failed(self, task: Task, question: str, error: str) -> R:
        """The row for what failed."""

    def holds(self, row: R) -> bool:
        """Whether what a finished row tells of is still there."""


def task_of(job: VideoJob, settings: Json) -> Task:
    """Look at the content of a job's video."""
    if job.problem is not None:
        return Task(job, settings, None, job.problem)
    try:
        return Task(job, settings, digest_of(job.video))
    except VideoError as error:
        return Task(job, settings, None, one_line(error))


EVERYBODYS = ("disk_full", "endpoint")
"""Codes of errors that the next video would meet too."""


def _of_this_video(error: BaseException) -> str:
    """What an error says of a video. Raises the error again if it is no video's: the next one would meet it too."""
    if isinstance(error, SystemResourceError | ManyVideosError) or getattr(error, "code", "") in EVERYBODYS:
        raise error
    return one_line(error)


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VideoXLError | ValueError) and text else f"{type(error).__name__}: {text}"


def loader(model: VideoXL | str) -> Callable[[], VideoXL]:
    """What gives a model, given it or its name."""
    from videoxl.inference.engine import load

    return partial(load, model) if isinstance(model, str) else lambda: model


def begin(
    jobs: Sequence[VideoJob],
    how: How[R],
    load: Callable[[], VideoXL],
    *,
    file: RowFile[R],
    workers: int,
    progress: Progress,
) -> Iterator[R]:
    """Load the model, and return the run. Raises for settings that contradict the model or the rows in ``file``.

    ``file`` is closed at the end of the run, or here if it cannot begin.
    """
    try:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers must be a whole number of at least 0, got {workers!r}")
        engine = load()
        noted = how.noted(engine)
        file.check_settings(noted)
    except BaseException:
        file.release()
        raise
    run = Run(engine, jobs, how.work(engine), reading=how.reading, settings=noted, file=file, workers=workers)
    return run.rows(progress)


class Run(Generic[R]):
    """Work over many videos."""

    def __init__(
        self,
        engine: VideoXL,
        jobs: Sequence[VideoJob],
        work: Work[R],
        *,
        reading: Reading,
        settings: Json,
        file: RowFile[R],
        workers: int,
    ) -> None:
        self._engine, self._jobs, self._work, self._reading = engine, jobs, work, reading
        self._settings, self._file, self._workers = settings, file, workers
        self._old = {id(row) for row in file.rows}
        self._holds: dict[int, bool] = {}

    def rows(self, progress: Progress) -> Iterator[R]:
        """Do the work, and yield a row for each question of each video, old or new."""
        with self._file, Ahead(self._prepare, self._workers) as ahead:
            progress("videos", 0, len(self._jobs))
            for done, (job, prepared) in enumerate(ahead.over(self._jobs), start=1):
                yield from self._of_video(job, prepared)
                progress("videos", done, len(self._jobs))

    def _prepare(self, job: VideoJob, stopped: threading.Event) -> tuple[Task, Opened | None]:
        """Runs in a thread. None: there is nothing to open."""
        task = task_of(job, self._settings)
        if task.digest is None or all(self._finished(task, question) for question in self._work.questions(job)):
            return task, None
        return task, open_ahead(self._engine, job.video, self._reading, stopped)

    def _of_video(self, job: VideoJob, prepared: Callable[[], tuple[Task, Opened | None]]) -> Iterator[R]:
        opened = None
        try:
            task, opened = prepared()
        except FAILURES as error:
            task = Task(job, self._settings, None, _of_this_video(error))
        try:
            waiting = []
            for question in self._work.questions(job):
                row = self._finished(task, question)
                if row is None:
                    waiting.append(question)
                else:
                    yield row if row.video == job.video else self._file.add(row.of_another(job.video))
            if task.digest is None:
                yield from (self._failed(task, question, task.problem or "") for question in waiting)
            elif waiting:
                yield from self._worked(task, waiting, opened)
        finally:
            if opened is not None:
                opened.close()

    def _finished(self, task: Task, question: str) -> R | None:
        """The finished row of a question: the video's own, or that of another file with the same content."""
        key = task.key(question)
        own = self._file.done(task.job.video, key)
        if own is not None:
            return own if self._still_holds(own) else None
        other = self._file.done_for_another(key)
        if other is None or not _same_content(other.video, task.job.video):
            return None
        return other if self._still_holds(other) else None

    def _still_holds(self, row: R) -> bool:
        """Rows of this run are not doubted; those of one before are looked at once."""
        if id(row) not in self._old:
            return True
        if id(row) not in self._holds:
            self._holds[id(row)] = self._work.holds(row)
        return self._holds[id(row)]

    def _worked(self, task: Task, waiting: Sequence[str], opened: Opened | None) -> Iterator[R]:
        left = list(waiting)
        try:
            opened = opened or open_ahead(self._engine, task.job.video, self._reading, threading.Event())
            for row in self._work.rows(task, waiting, opened):
                left.pop(0)
                yield self._file.add(row)
        except FAILURES as error:
            problem = _of_this_video(error)
            yield from (self._failed(task, question, problem) for question in left)

    def _failed(self, task: Task, question: str, error: str) -> R:
        logger.warning("%s failed: %s", task.job.video, error)
        return self._file.add(self._work.failed(task, question, error))


def _same_content(one: str, other: str) -> bool:
    """Whether two files hold the same bytes: the digest, which looks at both ends alone, is not enough here."""
    try:
        return os.path.isfile(one) and os.path.isfile(other) and filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
