"""``videoxl.answer_many``: the same questions about many videos, one row each, failures among them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from videoxl.config import DecodeStrategy, Generation
from videoxl.errors import ManyVideosError
from videoxl.inference.answers import Answer
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.elsewhere.answering import AnswerWith
from videoxl.inference.look_again import LookAgain, choose_look
from videoxl.inference.progress import Progress, as_progress
from videoxl.many.on_ray import Actors, require_ray, rows_on_ray
from videoxl.many.reading import Opened, Reading, memory_of
from videoxl.many.record import AnswerRecord, Json
from videoxl.many.row_file import RowFile
from videoxl.many.run import Task, begin, loader, one_line
from videoxl.many.sources import Columns, VideoJob, find_videos
from videoxl.settings import settable, unknown_setting

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL
    from videoxl.memory.video_memory import VideoMemory
    from videoxl.video import VideoSource

Videos = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
WORKERS = 1
"""Videos that are decoded ahead, by default."""


@dataclass(frozen=True)
class AnswerWork:
    """Asks the questions of a video in one go."""

    engine: VideoXL
    asking: Asking

    def questions(self, job: VideoJob) -> Sequence[str]:
        """The questions of a job."""
        return job.questions

    def rows(self, task: Task, questions: Sequence[str], opened: Opened) -> Iterator[AnswerRecord]:
        """Read the video once and answer the questions together."""
        only = questions[0] if len(task.job.questions) == 1 else None
        with memory_of(self.engine, opened, self.asking.reading, only) as memory:
            for question, answer in zip(questions, self._answers(memory, questions, opened.source)):
                if isinstance(answer, Answer):
                    yield self.row(task, question, answer)
                else:
                    yield self.failed(task, question, answer)

    def _answers(
        self, memory: VideoMemory, questions: Sequence[str], source: VideoSource | None
    ) -> Sequence[Answer | str]:
        try:
            return self.ask(memory, questions, source)
        except ValueError:  # one of them cannot be asked, and the others can
            return [self._answer(memory, question, source) for question in questions]

    def ask(self, memory: VideoMemory, questions: Sequence[str], source: VideoSource | None) -> list[Answer]:
        """The answers. ``source``: the opened video of the memory, for a second look."""
        how = self.asking
        if how.answer_with is not None:
            return how.answer_with.ask(
                self.engine, memory, questions, decode=how.decode, generation=how.generation, video=source
            )
        return self.engine.ask(
            memory,
            list(questions),
            decode=how.decode,
            generation=how.generation,
            look_again=how.look_again or False,
            video=source,
        )

    def _answer(self, memory: VideoMemory, question: str, source: VideoSource | None) -> Answer | str:
        try:
            return self.ask(memory, [question], source)[0]
        except ValueError as error:
            return one_line(error)

    def row(self, task: Task, question: str, answer: Answer) -> AnswerRecord:
        """The row of an answer."""
        return AnswerRecord.of(answer, **self._known(task, question))

    def failed(self, task: Task, question: str, error: str) -> AnswerRecord:
        """The row of a question that has no answer."""
        return AnswerRecord(answer=None, error=error, **self._known(task, question))

    def holds(self, row: AnswerRecord) -> bool:
        """An answer is all in its row."""
        return True

    def _known(self, task: Task, question: str) -> dict[str, Any]:
        return {
            "video": task.job.video,
            "model": self.engine.model_id.name,
            "question": question,
            "key": task.key(question),
            "settings": task.settings,
        }


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How each question is asked."""

    reading: Reading = field(default_factory=Reading)
    decode: DecodeStrategy | str | None = None
    generation: Generation = field(default_factory=Generation)
    look_again: LookAgain | None = None
    answer_with: AnswerWith | None = None
    """Another model that answers, from frames that the memory chooses."""

    def __post_init__(self) -> None:
        if self.answer_with is not None:
            if self.look_again is not None:
                raise ValueError("either this model looks again, or another one answers: give one of them")
            self.answer_with.check(self.generation)

    def noted(self, engine: VideoXL) -> Json:
        """What an answer depends on, as plain values: of the generation, what differs from the defaults."""
        usual, chosen = Generation(), self.generation
        changed = {
            one.name: value
            for one in fields(Generation)
            if (value := getattr(chosen, one.name)) != getattr(usual, one.name) or one.name == "max_new_tokens"
        }
        plain = {name: _plain(value) for name, value in changed.items()}
        look = {} if self.look_again is None else {"look_again": asdict(self.look_again)}
        there = {} if self.answer_with is None else {"answer_with": self.answer_with.noted()}
        return {
            **self.reading.noted(engine),
            "decode": str(choose_decode(self.decode, engine.config)),
            **plain,
            **look,
            **there,
        }

    def work(self, engine: VideoXL) -> AnswerWork:
        """What is done with each video."""
        return AnswerWork(engine, self)


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def answer_many(
    videos: Videos,
    questions: str | Iterable[str] | None = None,
    *,
    model: VideoXL | str,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    workers: int = WORKERS,
    decode: DecodeStrategy | str | None = None,
    generation: Generation | None = None,
    encode: dict[str, Any] | None = None,
    look_again: bool | LookAgain = False,
    answer_with: AnswerWith | None = None,
    columns: Columns | None = None,
    progress: bool | Progress = False,
    ray: bool | Actors = False,
    **settings: Any,
) -> Iterator[AnswerRecord]:
    """Ask the same questions about many videos, or each row of a table its own question.

    The work is done while the result is iterated over. Each video is read once and its questions are answered together.
    A video or a question that fails gives a record with an ``error``; the run goes on.

    Args:
        videos: files, folders of videos, patterns (``films/*.mp4``), tables with a column ``video`` (``.csv``,
            ``.tsv``, ``.jsonl``, ``.parquet``) or a list of paths (``.txt``); one or several. They may lie in a storage
            that fsspec knows (``s3://bucket/films/*.mp4``): each is copied here while it is read.
        questions: one or several. None: the column ``question`` of a table.
        model: a loaded model, or the name of one.
        output: a file that gets every record at once: ``.jsonl``; or ``.csv`` or ``.parquet``, which are written when
            the run ends, from the rows kept beside them in ``.jsonl``.
        resume: go on with ``output``. What has an answer there is not asked again: same content, settings, question.
        workers: how many videos are decoded ahead. 0: each is decoded when it is its turn.
        decode, generation: see :meth:`VideoXL.ask`.
        encode: keywords of :meth:`VideoXL.encode`, the same for all videos.
        look_again: see :meth:`VideoXL.ask`. Memories have no video to look at: their rows say so.
        answer_with: another model that answers, at an endpoint, from frames that each memory chooses.
        columns: names of a table's columns.
        progress: True draws a bar on stderr; a callable gets ("videos", done, total).
        ray: work on the Ray cluster of ``RAY_ADDRESS``, or on one that is started here. ``model`` is then a name.
        settings: those of :class:`Generation`, one by one, and of :meth:`VideoXL.encode`.

    Yields:
        A record for each question of each video, also for those that were finished before.

    Raises:
        ManyVideosError: there are no videos or questions, a table lacks a column, or ``output`` holds something else.
        ValueError: settings contradict each other. Arguments are checked at the call.
    """
    asking = asking_of(decode, generation, encode or {}, settings)
    asking = replace(asking, look_again=choose_look(look_again), answer_with=answer_with)
    asking.reading.require_shared()
    asked = [questions] if isinstance(questions, str) else questions
    jobs = find_videos(videos, asked, columns).jobs
    return run_answers(
        jobs,
        asking,
        loader(model),
        output=output,
        resume=resume,
        workers=workers,
        progress=as_progress(progress),
        actors=actors_of(ray, model),
    )


def run_answers(
    jobs: Sequence[VideoJob],
    asking: Asking,
    load: Callable[[], VideoXL],
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    workers: int = WORKERS,
    progress: Progress,
    actors: Actors | None = None,
) -> Iterator[AnswerRecord]:
    """Ask about the videos of ``jobs``; see :func:`answer_many`. ``load`` is called when everything else is right."""
    from videoxl.inference.asking import check_question

    if not any(job.questions for job in jobs):
        raise ManyVideosError("no question given: name one, or a table with a column of questions")
    for question in dict.fromkeys(question for job in jobs if job.problem is None for question in job.questions):
        check_question(question)
    if actors is not None:
        require_ray()
    file = RowFile(output, AnswerRecord, resume=resume)
    if actors is not None:
        return rows_on_ray(jobs, asking, load, file=file, actors=actors, progress=progress)
    return begin(jobs, asking, load, file=file, workers=workers, progress=progress)


def actors_of(ray: bool | Actors, model: VideoXL | str) -> Actors | None:
    """Actors of a run on Ray; None for one in this process. Raises ``ValueError`` for a model that is loaded here."""
    if ray is False:
        return None
    if not isinstance(model, str):
        raise ValueError("ray: each actor loads a model of its own: give its name or folder")
    return Actors() if ray is True else ray


def answer_video(engine: VideoXL, job: VideoJob, asking: Asking) -> list[AnswerRecord]:
    """All records of one video. It is plain: job, settings and records can be sent to other processes."""
    return list(run_answers([job], asking, lambda: engine, workers=0, progress=as_progress(False)))


def asking_of(
    decode: DecodeStrategy | str | None, generation: Generation | None, encode: dict[str, Any], settings: dict[str, Any]
) -> Asking:
    """Sort single settings into those of reading and those of writing an answer. Raises ``ValueError`` for others."""
    known = {**settable(Reading), **settable(Generation)}
    for name in settings:
        if name not in known:
            raise ValueError(unknown_setting(name, known, "answer_many"))
    reading = encode | {name: value for name, value in settings.items() if name in settable(Reading)}
    rest = {name: value for name, value in settings.items() if name in settable(Generation)}
    return Asking(reading=Reading.of(reading), decode=decode, generation=replace(generation or Generation(), **rest))
