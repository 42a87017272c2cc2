"""Answer many questions about many videos: each video is read once, each answer is kept at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

from videoxl.config import DEFAULT_SYSTEM_PROMPT, DecodeStrategy, PrefillStrategy, Sampling
from videoxl.errors import DoesNotFitError, VideoError
from videoxl.evaluation.annotations import digest
from videoxl.evaluation.costs import costs
from videoxl.evaluation.log import Json, SampleLog, how_it_was_run
from videoxl.inference.answers import Answer
from videoxl.inference.asking import TOGETHER
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.decode.siglip import watching
from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.inference.video_input import open_for_model
from videoxl.model.configuration import VideoXLConfig
from videoxl.video import VideoSource

Item = TypeVar("Item")
Tell = Callable[[str], None]
"""Called with a line of progress."""


@dataclass(frozen=True)
class Sample:
    """A question about a video. ``key`` tells it from all others of its benchmark."""

    key: str
    video: str
    question: str


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """How videos are read and questions answered; the same for all samples."""

    sampling: Callable[[VideoSource], Sampling]
    """Chooses the frames of an opened video."""
    prefill: PrefillStrategy | str | None = None
    decode: DecodeStrategy | str | None = None
    system: str = DEFAULT_SYSTEM_PROMPT
    max_new_tokens: int = 64
    sampling_name: str = ""
    """What results call :attr:`sampling`."""
    together: bool = True
    """Whether questions about one video are answered in the same steps: faster, and equal but for the rounding of sums
    (:meth:`VideoXL.ask`). Otherwise one after the other."""

    def described(self, config: VideoXLConfig) -> Json:
        """Return plain values for the header of a log, with the strategies that the model uses by default."""
        return {
            "sampling": self.sampling_name,
            "prefill": str(choose_prefill(self.prefill, config)),
            "decode": str(choose_decode(self.decode, config)),
            "system": self.system,
            "max_new_tokens": self.max_new_tokens,
            "together": self.together,
        }


@dataclass(frozen=True)
class Answers:
    """The records of answered samples by key, and why the others failed."""

    records: dict[str, Json]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """The answers by key."""
        return {key: record["text"] for key, record in self.records.items()}


def answer_all(
    engine: VideoXL, samples: Sequence[Sample], log: SampleLog, settings: AnswerSettings, *, tell: Tell | None = None
) -> Answers:
    """Answer every sample that is not in ``log``, by the calls that users make: one ``encode``, then ``ask``.

    A video that cannot be read fails its samples, which are never answered without it. They are not logged, so that a
    resumed run tries them again. A record holds ``text``, what the answer cost, and ``warnings`` about the video.

    Raises ``ValueError`` for two samples of one key, or for strategies that the model does not have.
    """
    if len({sample.key for sample in samples}) < len(samples):
        raise ValueError("two samples have the same key")
    choose_prefill(settings.prefill, engine.config)
    choose_decode(settings.decode, engine.config)
    by_video: dict[str, list[Sample]] = {}
    for sample in samples:
        by_video.setdefault(sample.video, []).append(sample)
    failed: dict[str, str] = {}
    for number, (video, group) in enumerate(by_video.items(), 1):
        todo = [sample for sample in group if log.done(sample.key) is None]
        if not todo:
            continue
        if tell:
            tell(f"video {number:,} of {len(by_video):,}: {video}, {len(todo)} questions")
        waiting = list(todo)
        try:
            for answer in _answers(engine, video, [sample.question for sample in todo], settings):
                log.add(waiting.pop(0).key, record_of(answer))
        except (VideoError, DoesNotFitError) as error:
            failed |= {sample.key: f"{error.code}: {error}" for sample in waiting}
            if tell:
                tell(f"failed: {error}")
    done = {sample.key: log.done(sample.key) for sample in samples}
    return Answers({key: record for key, record in done.items() if record is not None}, failed)


def _answers(engine: VideoXL, video: str, questions: Sequence[str], settings: AnswerSettings) -> Iterator[Answer]:
    """Answer questions about a video, read once unless the strategy reads with the question in mind."""
    prefill = choose_prefill(settings.prefill, engine.config)
    with open_for_model(video) as source:
        sampling = settings.sampling(source)
        for strategy, group in groupby(questions, key=lambda question: for_question(prefill, question)):
            memory = engine.encode(source, sampling=sampling, prefill=strategy, system=settings.system)
            decode = watching(choose_decode(settings.decode, engine.config), memory, source, {})
            for batch in batches(list(group), settings.together):
                yield from engine.ask(memory, batch, decode=decode, max_new_tokens=settings.max_new_tokens)


def batches(asked: Sequence[Item], together: bool) -> Iterator[list[Item]]:
    """Yield what is asked in one call: as many as are answered together, so that a log has them soon; or one."""
    size = TOGETHER if together else 1
    for first in range(0, len(asked), size):
        yield list(asked[first : first + size])


def record_of(answer: Answer) -> Json:
    """Return what a log keeps of an answer: its text and what it cost.

    Of the seconds that answers took together, each has the same share.
    """
    usage = answer.usage
    seconds = {**usage.seconds}
    if "generate" in seconds:
        seconds["generate"] /= usage.together
    return {
        "text": answer.text,
        "finish_reason": usage.finish_reason,
        "frames": usage.frames,
        "visual_tokens": usage.visual_tokens,
        "memory_tokens": usage.memory_tokens,
        "read_tokens": usage.read_tokens,
        "new_tokens": usage.new_tokens,
        "memory_bytes": usage.memory_bytes,
        "peak_gpu_bytes": usage.peak_gpu_bytes,
        "seconds": seconds,
        "together": usage.together,
        "warnings": list(answer.warnings),
    }


def log_settings(
    benchmark: str,
    annotations: str | os.PathLike[str],
    engine: VideoXL,
    settings: AnswerSettings,
    **own: str | int | None,
) -> Json:
    """Return all that an answer depends on, for the header of a log. ``own``: what only this benchmark has."""
    return {
        "benchmark": benchmark,
        "annotations": digest(annotations),
        "fingerprint": engine.fingerprint,
        "dtype": engine.dtype,
        **own,
        **settings.described(engine.config),
    }


def make_result(engine: VideoXL, log: SampleLog, answers: Answers, scores: Json, samples: list[Json]) -> Json:
    """Return the result of a benchmark, ready for JSON: scores, how it was run, and every sample."""
    return {
        "benchmark": log.settings["benchmark"],
        "scores": scores,
        "failed": answers.failed,
        "costs": costs(list(answers.records.values())),
        "run": how_it_was_run(engine.name, engine, **log.settings),
        "samples": samples,
    }
