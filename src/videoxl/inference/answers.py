"""Answers, with the time spans that were read for them and what they cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from videoxl.inference.decode.loop import FinishReason


class Span(NamedTuple):
    """A stretch of video that was read in full detail, in seconds, and its relevance from 0 to 1."""

    start: float
    end: float
    relevance: float


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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """An answer to one question."""

    text: str
    spans: tuple[Span, ...]
    """Stretches read in full detail; with :class:`~videoxl.DenseDecode` the whole video."""
    usage: Usage
    warnings: tuple[str, ...] = ()
    """What went wrong while the video was read, one sentence each."""
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    """Ids of the new tokens, end token included."""

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data for JSON: text, spans, usage, warnings."""
        return {
            "text": self.text,
            "spans": [{"start": s.start, "end": s.end, "relevance": s.relevance} for s in self.spans],
            "usage": self.usage.to_dict(),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Piece:
    """A piece of an answer that is still being written. The last piece has the whole :class:`Answer`."""

    text: str
    answer: Answer | None = None
