"""From what was written to an :class:`Answer`: its text, what it cost, and what must be said about it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from videoxl.config import DecodeStrategy, Generation
from videoxl.cues import Track
from videoxl.inference.answers import Answer, Choice, LikelyToken, Quote, TokenLogprob, Usage
from videoxl.inference.decode.bilevel import Start
from videoxl.inference.decode.constrain import Constraint
from videoxl.inference.decode.likelihood import TokenChance
from videoxl.inference.decode.text import AnswerText, FinishReason
from videoxl.inference.evidence import Evidence, Seen, find_evidence
from videoxl.inference.evidence_spans import EvidenceSpan
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.configuration import VideoXLConfig

MOST_QUOTES = 20


@dataclass(frozen=True)
class Asked:
    """A question about a memory, and how it is to be answered."""

    memory: VideoMemory
    """A snapshot: nobody else extends it."""
    question: str
    tail: Sequence[int]
    """The ids after the video: earlier turns, then the question."""
    generation: Generation
    decode: DecodeStrategy
    own: int
    """How many of ``tail`` are the question, at the end."""
    given: tuple[int, ...] = ()
    """The ids of ``prefix``, with which the answer begins."""

    @property
    def prompt(self) -> list[int]:
        """The ids behind the video that are read before the first token is written."""
        return [*self.tail, *self.given]


@dataclass(frozen=True)
class Written:
    """What was written for a question, and what that took."""

    ids: list[int]
    """New ids, without those of the prefix."""
    seconds: float
    chances: Sequence[TokenChance] = ()
    """Of each of ``ids``."""
    constraint: Constraint | None = None
    choices: tuple[Choice, ...] = ()
    together: int = 1
    """Questions that were answered in the same steps."""


@dataclass(frozen=True)
class Writer:
    """What all answers of an engine share."""

    config: VideoXLConfig
    tokenizer: PreTrainedTokenizerBase
    end_ids: Sequence[int]
    device: str
    dtype: str
    peak_gpu_bytes: int | None

    def answer(self, asked: Asked, start: Start, written: Written, seen: Seen | None) -> Answer:
        """The answer to a question. ``seen``: what its rows attended to, for its evidence."""
        how = asked.generation
        evidence = find_evidence(self.config, asked.memory, start.ids, *seen) if seen else Evidence()
        said = AnswerText(self.tokenizer, how.stop, asked.given)
        stopped = said(written.ids)
        text = how.prefix + said.whole()
        text = text if how.regex is not None else text.strip()
        whole, reason = _is_whole(written), self._finish_reason(how, written, stopped)
        parsed, notes = _parsed(text) if how.schema is not None and whole else (None, ())
        return Answer(
            _best(written.choices).text if written.choices else text,
            start.read,
            self._usage(asked, start, written, reason, evidence),
            (*asked.memory.warnings, *evidence.warnings, *(() if whole else (_cut_off(how, reason),)), *notes),
            (*asked.given, *written.ids),
            evidence.spans,
            quotes_of(asked.memory.tracks, evidence.spans),
            confidence=_mean([chance.logprob for chance in written.chances]),
            choices=written.choices,
            logprobs=None if how.logprobs is None else self._logprobs(written),
            parsed=parsed,
        )

    def _finish_reason(self, how: Generation, written: Written, stopped: bool) -> FinishReason:
        ended = stopped or (bool(written.ids) and written.ids[-1] in self.end_ids)
        return "stop" if ended or len(written.ids) < how.max_new_tokens else "length"

    def _usage(self, asked: Asked, start: Start, written: Written, reason: FinishReason, evidence: Evidence) -> Usage:
        memory = asked.memory
        paid = memory.usage
        return Usage(
            frames=memory.frames,
            video_seconds=memory.duration,
            visual_tokens=paid.visual_tokens,
            memory_tokens=len(memory.token_ids),
            read_tokens=len(start.ids),
            prompt_tokens=len(asked.prompt),
            new_tokens=len(written.ids),
            memory_bytes=memory.nbytes,
            peak_gpu_bytes=self.peak_gpu_bytes,
            seconds={**paid.seconds, **start.seconds, "generate": round(written.seconds, 6), **evidence.seconds},
            prefill=memory.prefill,
            decode=str(asked.decode),
            sampling=paid.sampling,
            window_ratios=paid.window_ratios,
            device=self.device,
            dtype=self.dtype,
            finish_reason=reason,
            together=written.together,
        )

    def _logprobs(self, written: Written) -> tuple[TokenLogprob, ...]:
        return tuple(
            TokenLogprob(
                token,
                self._shown(token),
                chance.logprob,
                tuple(LikelyToken(other, self._shown(other), logprob) for other, logprob in chance.top),
            )
            for token, chance in zip(written.ids, written.chances)
        )

    def _shown(self, token: int) -> str:
        text: str = self.tokenizer.decode([token])
        return text


def quotes_of(tracks: Sequence[Track], spans: Sequence[EvidenceSpan]) -> tuple[Quote, ...]:
    """The cues that lie in stretches, at least in part: each once, with the first stretch that has it."""
    found = dict.fromkeys(
        Quote(cue.start_s, cue.end_s, str(track.kind), cue.text)
        for span in spans
        for track in tracks
        for cue in track.within(span.start, span.end)
    )
    return tuple(found)[:MOST_QUOTES]


def judged(choices: Sequence[str], logprobs: Sequence[Sequence[float]]) -> tuple[Choice, ...]:
    """Options with their probabilities among one another, from the log-probabilities of their tokens.

    The sum over an option's tokens counts, not their mean: that is how likely the model answers with it.
    """
    sums = [math.fsum(one) for one in logprobs]
    weights = [math.exp(one - max(sums)) for one in sums]
    total = math.fsum(weights)
    return tuple(
        Choice(text, weight / total, whole, len(one))
        for text, weight, whole, one in zip(choices, weights, sums, logprobs)
    )


def _best(choices: Sequence[Choice]) -> Choice:
    """The likeliest; of equal ones the first."""
    return max(choices, key=lambda choice: choice.logprob)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _is_whole(written: Written) -> bool:
    """Whether nothing is missing of an answer that its language holds."""
    if written.constraint is None:
        return True
    written.constraint.read(written.ids)
    return written.constraint.is_complete


def _cut_off(how: Generation, reason: FinishReason) -> str:
    what = "is no complete JSON of the schema" if how.schema is not None else "does not match all of regex"
    if reason == "stop":
        return f"the answer {what}: it came to a place where nothing that the model can write is allowed"
    return f"the answer was cut off at max_new_tokens={how.max_new_tokens} and {what}: allow more tokens"


def _parsed(text: str) -> tuple[Any, tuple[str, ...]]:
    """What JSON text holds; None, and why, for JSON that Python cannot hold."""
    try:
        return json.loads(text, parse_float=_finite), ()
    except (ValueError, RecursionError) as error:
        return None, (f"the answer is JSON that cannot be read here ({error}): its text is whole, parsed is None",)


def _finite(text: str) -> float:
    """Raise ``ValueError`` for a number that JSON allows and a float does not hold."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is out of range")
    return value
