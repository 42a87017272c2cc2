"""How a stream is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from videoxl.config import KVDtype
from videoxl.settings import Count, Positive, settings

HOUR = 3600.0
GIB = 2**30


def _texts(given: object) -> object:
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


@settings
class Retention:
    """How long what is past is kept, and in what form. Ages are seconds since a segment ended."""

    dense_s: Positive = 6 * HOUR
    """Whole memories, int8: they answer as if they had just been read."""
    pooled_s: Positive = 24 * HOUR
    """Averages (Video-XL-2): a quarter of the size. For other families, whole memories."""
    vectors_s: Positive = 7 * 24 * HOUR
    """Small pictures, and vectors where a SigLIP model looks at the frames: they are found, but answer nothing."""
    bytes: Count = 20 * 10**9
    """All files together; what is oldest is made smaller first, then removed."""

    def __post_init__(self) -> None:
        if not self.dense_s <= self.pooled_s <= self.vectors_s:
            raise ValueError(
                f"what is kept must become less with age: dense_s={self.dense_s:g}, pooled_s={self.pooled_s:g} and "
                f"vectors_s={self.vectors_s:g} must ascend"
            )


@settings
class Alert:
    """Something to be told of when it happens: a question with the answer yes or no, asked of each new stretch.

    It fires when ``fire`` of the last ``of`` stretches say yes, and is over when ``clear`` of them say no.
    """

    question: str
    fire: Count = 2
    clear: Count = 2
    of: Count = 3

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("an alert needs a question, such as 'Is somebody at the door?'")
        if max(self.fire, self.clear) > self.of:
            raise ValueError(f"fire={self.fire} and clear={self.clear} must be at most of={self.of}")


@settings
class WatchSettings:
    """How a stream is read."""

    segment_s: Positive = 900.0
    """Length of a segment, in seconds: a memory of its own."""
    stretch: Count = 8
    """Frames that are read at a time; a process that is killed loses at most so many."""
    patience_s: Positive = 10.0
    """Fewer frames are read when no more have come for so long."""
    kv_dtype: KVDtype | None = None
    """What keys and values of the segment in work are held in; see ``encode``."""
    prefill: str | None = None
    """How segments are read; None: as the model's family does."""
    alerts: tuple[Alert, ...] = ()
    questions: Texts = ()
    """Asked of the segment in work, again and again."""
    every_s: Positive = 60.0
    """Seconds between two times."""
    earlier: Count = 4
    """Segments of the past that a question reads, at most."""
    retention: Retention = Retention()
