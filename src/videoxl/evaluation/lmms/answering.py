"""Answer questions of lmms-eval, each with earlier turns and generation settings of its own.

Each video is read once, and no question is answered without its video.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from videoxl.config import DEFAULT_SYSTEM_PROMPT, DecodeStrategy, Generation, PrefillStrategy, Sampling
from videoxl.errors import DoesNotFitError, VideoError
from videoxl.evaluation.log import Json, SampleLog
from videoxl.evaluation.memories import MemoryStore
from videoxl.evaluation.samples import batches, record_of
from videoxl.evaluation.subtitles import SubtitleFile, check_where
from videoxl.inference.answers import Answer
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.decode.siglip import watching
from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.inference.prompt import times_to_seconds
from videoxl.inference.subtitles import check_place
from videoxl.memory.video_memory import VideoMemory

Record = Json
"""What is kept of an answer: see :func:`record_of`; with video, question, and whether it paid for the reading."""


@dataclass(frozen=True)
class ReadingSettings:
    """How every video is read and every question asked."""

    sampling: Mapping[str, float | int | None] = field(default_factory=dict)
    """Settings of :class:`Sampling` by name."""
    prefill: PrefillStrategy | str | None = None
    decode: DecodeStrategy | str | None = None
    reader: str = "auto"
    strict: bool = False
    """Whether a video that can only be read in part fails its samples."""
    times_in_seconds: bool = False
    """Whether to rewrite ``mm:ss`` in questions as seconds, as the released evaluation does, mistakes included."""
    subtitles: str | None = None
    """Where the subtitles of the videos are: see :func:`~videoxl.evaluation.subtitles.subtitle_file`."""
    together: bool = False
    """Whether questions about one video are answered in the same steps: see
    :attr:`~videoxl.evaluation.samples.AnswerSettings.together`. Those with earlier turns are asked alone."""


@dataclass(frozen=True)
class Question:
    """One question, its video, and how to answer it."""

    key: str
    """Names the sample in the log. No two questions of a run have the same."""
    question: str
    video: object
    """What ``encode`` takes; None if there is none, and ``problem`` says why."""
    problem: str | None = None
    start: float | None = None
    end: float | None = None
    system: str = DEFAULT_SYSTEM_PROMPT
    history: tuple[tuple[str, str], ...] = ()
    """Earlier turns: (question, answer)."""
    generation: Generation = field(default_factory=Generation)
    document: Mapping[str, object] = field(default_factory=dict)
    """What the benchmark says about it, such as its category; kept with the answer."""
    stop: tuple[str, ...] = ()
    """Texts before which the answer ends."""
    subtitles: SubtitleFile | None = None
    """Subtitles to be read with the video."""
    prefill: PrefillStrategy | None = None
    """For this question alone, instead of that of the run."""
    decode: DecodeStrategy | None = None
    """For this question alone, instead of that of the run."""

    @property
    def video_name(self) -> str:
        """The video without folders, so that records are the same on every machine."""
        if isinstance(self.video, (str, os.PathLike)):
            return os.path.basename(self.video)
        return "picture" if self.video is not None else f"{self.key}'s video"

    @property
    def known(self) -> Record:
        """What a record holds before the question is answered."""
        return {"video": self.video_name, "question": self.question, "document": dict(self.document)}


class Answerer:
    """Answers questions grouped by video, in the order in which videos first occur.

    An answer depends on its own question and video alone: order, grouping and what was resumed change nothing.
    """

    def __init__(
        self,
        engine: VideoXL,
        reading: ReadingSettings,
        *,
        log: SampleLog | None = None,
        memories: MemoryStore | None = None,
        warn: Callable[[str], None] = lambda text: None,
        progress: Callable[[int], None] = lambda samples: None,
    ) -> None:
        """Check the settings.

        Args:
            log: finished samples, which are not answered again.
            memories: where memories are kept, so that a video is read once for several runs.
            warn: called with a line for every video that failed.
            progress: called with the number of samples just finished.

        Raises ``ValueError`` for settings that the model does not support.
        """
        self.engine, self.reading, self.log, self.warn, self.progress = engine, reading, log, warn, progress
        self.memories = memories
        self.failed: dict[str, Record] = {}
        """What is known of a failed sample, by its key; ``error`` says why it was not answered."""
        Sampling(**reading.sampling)  # type: ignore[arg-type]  # its own checks judge what came
        self.prefill = choose_prefill(reading.prefill, engine.config)
        self.decode = choose_decode(reading.decode, engine.config)
        if reading.subtitles is not None:
            check_where(reading.subtitles)
            check_place(engine.config.family, engine.config.time_format)

    def answer(self, questions: Sequence[Question]) -> list[Record | None]:
        """Return a record per question, in their order; None if it failed, and :attr:`failed` says why.

        A key that occurs twice is one sample, answered once. A failed sample is not in the log, so that a resumed run
        tries it again.
        """
        found: dict[str, Record] = {}
        waiting: dict[Hashable, dict[str, Question]] = {}
        for one in questions:
            done = self.log.done(one.key) if self.log is not None else None
            if done is not None:
                found[one.key] = done
            else:
                waiting.setdefault(self._group(one), {})[one.key] = one
        self.progress(len(found))
        for group in waiting.values():
            for key, record in self._about_one_video(list(group.values())):
                found[key] = record if self.log is None else self.log.add(key, record)
                self.progress(1)
        return [found.get(one.key) for one in questions]

    def _group(self, one: Question) -> Hashable:
        """Return a value that is equal for questions that one memory serves."""
        video = os.path.realpath(one.video) if isinstance(one.video, (str, os.PathLike)) else id(one.video)
        part = (video, one.problem, one.start, one.end, one.subtitles)
        return *part, one.system, str(self._prefill(one))

    def _prefill(self, one: Question) -> PrefillStrategy:
        return for_question(one.prefill or self.prefill, one.question)

    def _about_one_video(self, group: list[Question]) -> Iterator[tuple[str, Record]]:
        """Yield the records of a group. A video that cannot be read fails all that are left."""
        waiting = list(group)
        try:
            memory, was_kept = self._read(group[0])
            for _, alike in groupby(group, key=_asked_alike):
                for batch in batches(list(alike), self.reading.together):
                    for one, answer in zip(batch, self._ask(memory, batch)):
                        record = record_of(replace(answer, text=_until(answer.text, one.stop)))
                        paid = len(waiting) == len(group) and not was_kept
                        waiting.pop(0)
                        cues = {"subtitles": memory.usage.subtitles} if self.reading.subtitles else {}
                        yield one.key, {**one.known, **record, **cues, "paid_reading": paid}
        except (VideoError, DoesNotFitError) as error:
            self.failed |= {one.key: {**one.known, "error": f"{error.code}: {error}"} for one in waiting}
            self.warn(f"{group[0].video_name}: {len(waiting)} samples fail, {error.code}: {error}")
            self.progress(len(waiting))

    def _ask(self, memory: VideoMemory, batch: Sequence[Question]) -> list[Answer]:
        """Ask questions that :func:`_asked_alike` finds alike: together, or one with its earlier turns."""
        first = batch[0]
        decode = watching(first.decode or self.decode, memory, _openable(first.video), {})
        if len(batch) == 1:
            history = list(first.history)
            question = self._wording(first)
            return [self.engine.continue_conversation(memory, history, question, first.generation, decode)]
        questions = [self._wording(one) for one in batch]
        return self.engine.ask(memory, questions, decode=decode, generation=first.generation)

    def _read(self, one: Question) -> tuple[VideoMemory, bool]:
        """Return the memory of a question's video, and whether it was kept from an earlier reading."""
        if one.video is None:
            raise VideoError(one.problem or "the sample has no video", code="not_found")
        given: Json = {**self.reading.sampling}
        given |= {name: value for name, value in (("start", one.start), ("end", one.end)) if value is not None}
        settings: Json = {
            **given,
            "prefill": self._prefill(one),
            "system": one.system,
            "subtitles": one.subtitles.cues() if one.subtitles else None,
            "reader": self.reading.reader,
            "strict": self.reading.strict,
        }
        if self.memories is None or not isinstance(one.video, (str, os.PathLike)):
            return self.engine.encode(_openable(one.video), **settings), False
        return self.memories.read(self.engine, os.fspath(one.video), settings)

    def _wording(self, one: Question) -> str:
        return times_to_seconds(one.question) if self.reading.times_in_seconds else one.question


def _openable(video: object) -> object:
    return os.fspath(video) if isinstance(video, Path) else video


def _asked_alike(one: Question) -> Hashable:
    """Return a value that is equal for neighbours that one call can answer. One with earlier turns is like no other."""
    return (one.key if one.history else "", one.generation, one.decode)


def _until(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0] if stop else text
    return text.strip()
