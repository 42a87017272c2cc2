"""Questions as lmms-eval puts them, each with turns before it and generation settings of its own.

Each video is read once, and no question is answered without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from videoxl.config import DEFAULT_SYSTEM_PROMPT, DecodeStrategy, Generation, PrefillStrategy, Sampling
from videoxl.errors import DoesNotFitError, VideoError
from videoxl.evaluation.log import SampleLog
from videoxl.evaluation.samples import record_of
from videoxl.evaluation.subtitles import SubtitleFile, check_where
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.decode.siglip import watching
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.inference.prompt import times_to_seconds
from videoxl.inference.subtitles import check_place

Record = dict[str, Any]
"""Of one answer: see :func:`record_of`; with video, question, and whether it paid for the reading."""


@dataclass(frozen=True)
class ReadingSettings:
    """How every video is read and every question asked."""

    sampling: Mapping[str, float | int | None] = field(default_factory=dict)
    """Settings of :class:`Sampling` by name."""
    prefill: PrefillStrategy | str | None = None
    decode: DecodeStrategy | str | None = None
    reader: str = "auto"
    strict: bool = False
    """A video that can only be read in part fails its samples."""
    clock_as_seconds: bool = False
    """Rewrite ``mm:ss`` in questions as seconds, as the released evaluation does, mistakes included (SPEC 3.5)."""
    subtitles: str | None = None
    """Where those of the videos are: see :func:`~videoxl.evaluation.subtitles.subtitle_file`."""


@dataclass(frozen=True)
class Asked:
    """One question, what it is about, and how it is to be answered."""

    key: str
    """Names the sample, in the log and among all questions of a run."""
    question: str
    video: Any
    """What ``encode`` takes; None where there is none, and ``problem`` says why."""
    problem: str | None = None
    start: float | None = None
    end: float | None = None
    system: str = DEFAULT_SYSTEM_PROMPT
    history: tuple[tuple[str, str], ...] = ()
    """Turns before it: (question, answer)."""
    generation: Generation = field(default_factory=Generation)
    document: Mapping[str, Any] = field(default_factory=dict)
    """What the benchmark says of it, its category say; kept with the answer."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""
    subtitles: SubtitleFile | None = None
    """What is said in the video, where that is to be read with it."""

    @property
    def place(self) -> str:
        """The video without folders, for records that are to be the same on every machine."""
        if isinstance(self.video, (str, os.PathLike)):
            return os.path.basename(self.video)
        return "picture" if self.video is not None else f"{self.key}'s video"

    @property
    def known(self) -> Record:
        """What is known before it is answered."""
        return {"video": self.place, "question": self.question, "document": dict(self.document)}


class Asker:
    """Answers questions grouped by video, in the order in which videos first occur.

    An answer depends on its own question and video alone: order, grouping and what was resumed change nothing.
    """

    def __init__(
        self,
        engine: Any,
        reading: ReadingSettings,
        *,
        log: SampleLog | None = None,
        say: Callable[[str], None] = lambda text: None,
        progress: Callable[[int], None] = lambda samples: None,
    ) -> None:
        """``log``: finished samples, which are not done again; ``say`` gets a line for every video that failed;
        ``progress`` the number of samples just finished. Raises ``ValueError`` for settings the model cannot follow.
        """
        self.engine, self.reading, self.log, self.say, self.progress = engine, reading, log, say, progress
        self.failed: dict[str, Record] = {}
        """Key -> what is known, and under ``error`` why it was not answered."""
        Sampling(**reading.sampling)  # type: ignore[arg-type]  # its own checks judge what came
        self.prefill = choose_prefill(reading.prefill, engine.config)
        self.decode = choose_decode(reading.decode, engine.config)
        if reading.subtitles is not None:
            check_where(reading.subtitles)
            check_place(engine.config.family, engine.config.time_format)

    def answer(self, asked: Sequence[Asked]) -> list[Record | None]:
        """A record per question, in their order; None where it failed, and :attr:`failed` says why.

        The same key twice is one sample, answered once. What failed is not in the log: a resumed run tries it again.
        """
        found: dict[str, Record] = {}
        waiting: dict[Any, dict[str, Asked]] = {}
        for one in asked:
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
        return [found.get(one.key) for one in asked]

    def _group(self, one: Asked) -> Any:
        """The same for questions that one memory serves."""
        video = os.path.realpath(one.video) if isinstance(one.video, (str, os.PathLike)) else id(one.video)
        part = (video, one.problem, one.start, one.end, one.subtitles)
        return *part, one.system, str(for_question(self.prefill, one.question))

    def _about_one_video(self, group: list[Asked]) -> Iterator[tuple[str, Record]]:
        """What could be answered. A video that cannot be read fails all of them."""
        waiting = list(group)
        try:
            memory, decode = self._read(group[0])
            while waiting:
                one = waiting[0]
                answer = self.engine.continue_conversation(
                    memory, list(one.history), self._wording(one), one.generation, decode
                )
                record = record_of(replace(answer, text=_until(answer.text, one.stop)))
                paid = len(waiting) == len(group)
                waiting.pop(0)
                said = {"subtitles": memory.usage.subtitles} if self.reading.subtitles else {}
                yield one.key, {**one.known, **record, **said, "paid_reading": paid}
        except (VideoError, DoesNotFitError) as error:
            self.failed |= {one.key: {**one.known, "error": f"{error.code}: {error}"} for one in waiting}
            self.say(f"{group[0].place}: {len(waiting)} samples fail, {error.code}: {error}")
            self.progress(len(waiting))

    def _read(self, one: Asked) -> tuple[Any, DecodeStrategy]:
        if one.video is None:
            raise VideoError(one.problem or "the sample has no video", code="not_found")
        given: dict[str, Any] = {**self.reading.sampling}
        given |= {name: value for name, value in (("start", one.start), ("end", one.end)) if value is not None}
        video = os.fspath(one.video) if isinstance(one.video, Path) else one.video
        memory = self.engine.encode(
            video,
            **given,
            prefill=for_question(self.prefill, one.question),
            system=one.system,
            subtitles=one.subtitles.cues() if one.subtitles else None,
            reader=self.reading.reader,
            strict=self.reading.strict,
        )
        return memory, watching(self.decode, memory, video, {})

    def _wording(self, one: Asked) -> str:
        return times_to_seconds(one.question) if self.reading.clock_as_seconds else one.question


def _until(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0] if stop else text
    return text.strip()
