"""What a watcher tells: each a plain value with a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from videoxl.memory.layout import clock


@dataclass(frozen=True)
class Event:
    """``seconds``: on the stream's axis, which goes on over restarts; ``time``: of the wall clock, since 1970."""

    kind: str = field(init=False, default="event")
    seconds: float
    time: float

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data for JSON."""
        return asdict(self)

    @property
    def text(self) -> str:
        """What happened, in one line without the time."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{clock(self.seconds)} {self.text}"


@dataclass(frozen=True)
class StateEvent(Event):
    """The connection: ``connecting``, ``live``, ``lost`` or ``ended``."""

    kind: str = field(init=False, default="state")
    state: str
    message: str = ""

    @property
    def text(self) -> str:
        return f"{self.state}{': ' + self.message if self.message else ''}"


@dataclass(frozen=True)
class GapEvent(Event):
    """A stretch without frames has ended."""

    kind: str = field(init=False, default="gap")
    start: float
    end: float
    reason: str

    @property
    def text(self) -> str:
        return f"gap of {self.end - self.start:.1f} s from {clock(self.start)} on ({self.reason})"


@dataclass(frozen=True)
class AlertEvent(Event):
    """Something one wanted to be told of has begun (``fired``), or is over (``cleared``)."""

    kind: str = field(init=False, default="alert")
    question: str
    state: str
    since: float
    """When the first of the stretches that decided begins."""
    probability: float
    """That the answer is yes, in the last one."""

    @property
    def text(self) -> str:
        return f"alert {self.state}: {self.question} (since {clock(self.since)}, yes {100 * self.probability:.0f} %)"


@dataclass(frozen=True)
class AnswerEvent(Event):
    """The answer to a question that is asked again and again."""

    kind: str = field(init=False, default="answer")
    question: str
    answer: str
    confidence: float | None

    @property
    def text(self) -> str:
        return f"{self.question} {self.answer}"


@dataclass(frozen=True)
class SegmentEvent(Event):
    """A segment is complete and saved."""

    kind: str = field(init=False, default="segment")
    start: float
    end: float
    frames: int
    bytes: int

    @property
    def text(self) -> str:
        return f"segment from {clock(self.start)} saved: {self.frames} frames, {self.bytes / 1e6:,.1f} MB"


@dataclass(frozen=True)
class NoteEvent(Event):
    """Something that one should know."""

    kind: str = field(init=False, default="note")
    message: str

    @property
    def text(self) -> str:
        return self.message
