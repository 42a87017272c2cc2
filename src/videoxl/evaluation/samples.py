"""Many questions about many videos: each video is read once, each answer is kept as soon as it is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from videoxl.config import DEFAULT_SYSTEM_PROMPT, DecodeStrategy, PrefillStrategy, Sampling
from videoxl.errors import DoesNotFitError, VideoError
from videoxl.evaluation.annotations import digest
from videoxl.evaluation.log import SampleLog, how_it_was_run
from videoxl.inference.answers import Answer
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.decode.siglip import watching
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.inference.video_input import open_for_model
from videoxl.video import VideoSource

Tell = Callable[[str], None]
"""Called with a line of progress."""
READING_PHASES = ("decode", "vision", "prefill")
"""Phases of an answer's seconds that are reading the video."""


@dataclass(frozen=True)
class Sample:
    """A question about a video. ``key`` tells it from all others of its benchmark."""

    key: str
    video: str
    question: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How videos are read and questions answered; the same for all samples."""

    sampling: Callable[[VideoSource], Sampling]
    """Which frames of an opened video."""
    prefill: PrefillStrategy | str | None = None
    decode: DecodeStrategy | str | None = None
    system: str = DEFAULT_SYSTEM_PROMPT
    max_new_tokens: int = 64
    note: str = ""
    """What to call :attr:`sampling` where a run is described."""

    def described(self, config: Any) -> dict[str, Any]:
        """Plain values for the head of a log; strategies as the model called for them."""
        return {
            "sampling": self.note,
            "prefill": str(choose_prefill(self.prefill, config)),
            "decode": str(choose_decode(self.decode, config)),
            "system": self.system,
            "max_new_tokens": self.max_new_tokens,
        }


@dataclass(frozen=True)
class Answered:
    """``records`` by the keys of their samples; ``failed``: of those whose video could not be read, why."""

    records: dict[str, dict[str, Any]]
    failed: dict[str, str] = field(default_factory=dict)


def answer_all(
    engine: Any, samples: Sequence[Sample], log: SampleLog, reading: Reading, *, tell: Tell | None = None
) -> Answered:
    """Answer every sample that is not in ``log``, by the calls a user makes: one ``encode``, then ``ask``.

    A video that cannot be read fails its samples, which are never answered without it; they are not logged, so that a
    resumed run tries them again. A record holds ``text``, what the answer cost, and ``warnings`` about the video.

    Raises ``ValueError`` for two samples of one key, or for strategies that the model does not have.
    """
    if len({sample.key for sample in samples}) < len(samples):
        raise ValueError("two samples have the same key")
    choose_prefill(reading.prefill, engine.config)
    choose_decode(reading.decode, engine.config)
    by_video: dict[str, list[Sample]] = {}
    for sample in samples:
        by_video.setdefault(sample.video, []).append(sample)
    failed: dict[str, str] = {}
    for number, (video, asked) in enumerate(by_video.items(), 1):
        todo = [sample for sample in asked if log.done(sample.key) is None]
        if not todo:
            continue
        if tell:
            tell(f"video {number:,} of {len(by_video):,}: {video}, {len(todo)} questions")
        waiting = list(todo)
        try:
            for answer in _answers(engine, video, [sample.question for sample in todo], reading):
                log.add(waiting.pop(0).key, record_of(answer))
        except (VideoError, DoesNotFitError) as error:
            failed |= {sample.key: f"{error.code}: {error}" for sample in waiting}
            if tell:
                tell(f"failed: {error}")
    done = {sample.key: log.done(sample.key) for sample in samples}
    return Answered({key: record for key, record in done.items() if record is not None}, failed)


def _answers(engine: Any, video: str, questions: Sequence[str], reading: Reading) -> Iterator[Answer]:
    """One reading serves all questions, unless the strategy reads with the question in mind."""
    prefill = choose_prefill(reading.prefill, engine.config)
    with open_for_model(video) as source:
        sampling = reading.sampling(source)
        read_with: PrefillStrategy | None = None
        for question in questions:
            strategy = for_question(prefill, question)
            if strategy != read_with:
                memory = engine.encode(source, sampling=sampling, prefill=strategy, system=reading.system)
                decode = watching(choose_decode(reading.decode, engine.config), memory, source, {})
                read_with = strategy
            yield engine.ask(memory, question, decode=decode, max_new_tokens=reading.max_new_tokens)


def record_of(answer: Answer) -> dict[str, Any]:
    """What is kept of an answer: its text and what it cost."""
    usage = answer.usage
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
        "seconds": usage.seconds,
        "warnings": list(answer.warnings),
    }


def run_settings(
    benchmark: str, annotations: str | os.PathLike[str], engine: Any, how: Reading, **own: Any
) -> dict[str, Any]:
    """All that an answer depends on, for the head of a log. ``own``: what only this benchmark has."""
    return {
        "benchmark": benchmark,
        "annotations": digest(annotations),
        "fingerprint": engine.fingerprint,
        "dtype": engine.dtype,
        **own,
        **how.described(engine.config),
    }


def result(
    engine: Any, log: SampleLog, answered: Answered, scores: dict[str, Any], samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a benchmark hands back, ready for JSON: how it was run, what came out, and every sample."""
    return {
        "benchmark": log.settings["benchmark"],
        "scores": scores,
        "failed": answered.failed,
        "costs": costs(list(answered.records.values())),
        "run": how_it_was_run(engine.name, engine, **log.settings),
        "samples": samples,
    }


def costs(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the answers cost: means per sample, the greatest peak, and how many videos were read in part only."""
    if not records:
        return {}
    counted = ("frames", "visual_tokens", "memory_tokens", "read_tokens", "new_tokens", "memory_bytes")
    peaks = [record["peak_gpu_bytes"] for record in records if record["peak_gpu_bytes"] is not None]
    phases = sorted({phase for record in records for phase in record["seconds"]})
    return {
        **{f"mean_{name}": sum(record[name] for record in records) / len(records) for name in counted},
        "mean_seconds": {p: sum(record["seconds"].get(p, 0.0) for record in records) / len(records) for p in phases},
        "peak_gpu_bytes": max(peaks, default=None),
        "samples_with_warnings": sum(bool(record["warnings"]) for record in records),
        "empty_answers": sum(not record["text"] for record in records),
    }
