"""Answers, with the time spans that were read for them and what they cost."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from videoxl.inference.decode.text import FinishReason
from videoxl.inference.evidence_spans import EvidenceSpan
from videoxl.text import html_bar, html_facts


class Span(NamedTuple):
    """A stretch of video that was read in full detail, in seconds, and its relevance from 0 to 1."""

    start: float
    end: float
    relevance: float


class Quote(NamedTuple):
    """What was said or written where an answer's tokens looked: a cue of a track that was read with the frames."""

    start: float
    """Seconds of the video."""
    end: float
    track: str
    """``subtitles``, ``speech`` or ``screen``."""
    text: str


class Choice(NamedTuple):
    """One of the options of a question."""

    text: str
    probability: float
    """Among all options; they add up to 1."""
    logprob: float
    """Natural log-probability that the model answers with this text, its end included: a sum over its tokens."""
    tokens: int
    """Tokens of the text and its end. ``logprob / tokens`` compares options of different lengths token by token."""


class LikelyToken(NamedTuple):
    """A token that could have stood at a place of an answer."""

    id: int
    text: str
    logprob: float


class TokenLogprob(NamedTuple):
    """A token of an answer and its natural log-probability as the model gave it, before temperature and constraints."""

    id: int
    text: str
    logprob: float
    top: tuple[LikelyToken, ...]
    """The likeliest tokens at this place, the best first."""


@dataclass(frozen=True)
class Elsewhere:
    """Who answered in place of the memory's own model, and what it got for it."""

    host: str
    model: str
    """As the endpoint names it."""
    frames: tuple[float, ...]
    """Seconds of the frames that it was sent."""
    image_bytes: int
    """Bytes of these frames."""
    prompt_tokens: int | None
    """As the endpoint counts them; None where it does not say."""
    completion_tokens: int | None
    finish_reason: str
    seconds: float
    """From the choice of frames to the answer."""


@dataclass(frozen=True)
class Usage:
    """Cost of an answer. Times are in seconds, sizes in bytes. The video was read once, for all answers."""

    frames: int
    video_seconds: float
    visual_tokens: int
    memory_tokens: int
    read_tokens: int
    """Tokens of the memory as the question read it: fewer than ``memory_tokens`` where parts were averaged."""
    prompt_tokens: int
    new_tokens: int
    memory_bytes: int
    peak_gpu_bytes: int | None
    seconds: dict[str, float]
    prefill: str
    decode: str
    sampling: str
    window_ratios: tuple[int, ...]
    """Visual tokens per beacon in every window of Video-XL; empty for other models."""
    device: str
    dtype: str
    finish_reason: FinishReason
    together: int = 1
    """Questions that were answered in the same steps; ``seconds["generate"]`` is what all of them took."""

    @property
    def frames_per_second(self) -> float | None:
        """Frames read for each second of video: what came of the rate that was asked for. None for a still."""
        return round(self.frames / self.video_seconds, 6) if self.video_seconds > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the rate at which frames were read."""
        return {**asdict(self), "frames_per_second": self.frames_per_second}


@dataclass(frozen=True)
class Answer:
    """An answer to one question."""

    text: str
    read: tuple[Span, ...]
    """Stretches read in full detail; with :class:`~videoxl.DenseDecode` the whole video."""
    usage: Usage
    warnings: tuple[str, ...] = ()
    """What went wrong while the video was read, one sentence each."""
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    """Ids of the new tokens, end token included."""
    evidence: tuple[EvidenceSpan, ...] = ()
    """Stretches that the answer's tokens looked at, the one with most of their attention first; empty where
    ``evidence=False``."""
    quotes: tuple[Quote, ...] = ()
    """Cues within these stretches, where tracks of words were read: those of the first stretch first."""
    confidence: float | None = None
    """Mean natural log-probability of the answer's tokens, as the model gave them: 0 is certain."""
    choices: tuple[Choice, ...] = ()
    """With ``choices``: all options in the order given; ``text`` is the likeliest."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """With ``logprobs``: every token that the model wrote."""
    alternatives: tuple[Answer, ...] = ()
    """With ``n``: the other answers."""
    parsed: Any = None
    """With ``schema``: what the JSON holds. None where it was cut off."""
    first: Answer | None = None
    """With ``look_again``: what was answered before the second look. With another model's endpoint: what the memory's
    own model answered. None: there was none."""
    elsewhere: Elsewhere | None = None
    """Which other model answered, where one was asked; ``usage`` is what choosing its frames cost here."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """The former name of :attr:`read`."""
        warnings.warn("Answer.spans is called Answer.read now", DeprecationWarning, stacklevel=2)
        return self.read

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """In notebooks: the text, where it looked, and what it cost."""
        most = max((span.share for span in self.evidence), default=1.0) or 1.0
        spans = [(span.start, span.end, 0.25 + 0.75 * span.share / most) for span in self.evidence]
        begin, end = min((s.start for s in self.read), default=0.0), max((s.end for s in self.read), default=0.0)
        looked = ", ".join(f"{s.start:.1f} to {s.end:.1f} s ({100 * s.share:.0f} %)" for s in self.evidence)
        facts: dict[str, object] = {"looked at": looked} if looked else {}
        facts["cost"] = f"{self.usage.new_tokens} tokens, {self.usage.seconds.get('generate', 0.0):.2f} s"
        facts |= {f"warning {number}": text for number, text in enumerate(self.warnings, 1)}
        return html_facts(self.text, facts, html_bar(begin, end, spans) if spans else "")

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data for JSON. The names are the same for every answer."""
        return {
            "text": self.text,
            "confidence": self.confidence,
            "choices": [choice._asdict() for choice in self.choices],
            "parsed": self.parsed,
            "logprobs": self._logprobs(),
            "alternatives": [other._alternative() for other in self.alternatives],
            "first": None if self.first is None else self.first._first(),
            "elsewhere": None if self.elsewhere is None else asdict(self.elsewhere),
            "evidence": [span._asdict() for span in self.evidence],
            "quotes": [quote._asdict() for quote in self.quotes],
            "read": [span._asdict() for span in self.read],
            "usage": self.usage.to_dict(),
            "warnings": list(self.warnings),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """:meth:`to_dict` as JSON text, on one line unless ``indent`` is given."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def _logprobs(self) -> list[dict[str, Any]] | None:
        if self.logprobs is None:
            return None
        return [{**one._asdict(), "top": [likely._asdict() for likely in one.top]} for one in self.logprobs]

    def _first(self) -> dict[str, Any]:
        """What the answer before a second look was, and where it looked."""
        spans = {"evidence": [span._asdict() for span in self.evidence], "read": [span._asdict() for span in self.read]}
        return {**self._alternative(), **spans, "usage": self.usage.to_dict()}

    def _alternative(self) -> dict[str, Any]:
        """What differs between the answers to one question."""
        return {
            "text": self.text,
            "confidence": self.confidence,
            "parsed": self.parsed,
            "logprobs": self._logprobs(),
            "finish_reason": self.usage.finish_reason,
        }


@dataclass(frozen=True)
class Piece:
    """A piece of an answer that is still being written. The last piece has the whole :class:`Answer`."""

    text: str
    answer: Answer | None = None
