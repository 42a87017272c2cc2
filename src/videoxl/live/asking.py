"""Questions about a stream: which segments are read, and how their answers become one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from videoxl.inference.answers import Answer
from videoxl.memory.layout import clock

About = Literal["now", "all"] | tuple[float, float]
"""The segment in work; all that is kept; or a stretch of the axis, in seconds."""
Stretch = tuple[float, float]
EMPTY = re.compile(
    r"(no|nothing|none|nobody|no one|never|not (shown|visible|seen|there)|unknown)\b.{0,20}", re.I | re.S
)
"""Answers that say that something is not there. Of several segments, those count last: one that shows it is enough."""
NOT_SURE = -1e9


@dataclass(frozen=True)
class Part:
    """What one segment answers."""

    start: float
    """Seconds on the stream's axis. Times in the answer count from here."""
    end: float
    level: Literal["current", "dense", "pooled"]
    answer: Answer

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, with the evidence on the stream's axis."""
        evidence = [
            {"start": span.start + self.start, "end": span.end + self.start, "share": span.share}
            for span in self.answer.evidence
        ]
        return {
            "start": self.start,
            "end": self.end,
            "level": self.level,
            "text": self.answer.text,
            "confidence": self.answer.confidence,
            "evidence": evidence,
        }


@dataclass(frozen=True)
class LiveAnswer:
    """An answer about a stream, and what it rests on."""

    text: str
    confidence: float | None
    """Mean natural log-probability of its tokens."""
    best: Part
    """The segment that it comes from."""
    parts: tuple[Part, ...]
    """What each segment that was read answers, the best first."""
    searched: tuple[Stretch, ...] = ()
    """Segments whose vectors were compared with the question, and which were not read."""
    unread: tuple[Stretch, ...] = ()
    """Segments that belong to what was asked about, and were neither read nor searched."""
    notes: tuple[str, ...] = ()

    @property
    def read(self) -> tuple[Stretch, ...]:
        """Segments that were read, in order."""
        return tuple(sorted((part.start, part.end) for part in self.parts))

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data for JSON."""
        return {
            "text": self.text,
            "confidence": self.confidence,
            "start": self.best.start,
            "end": self.best.end,
            "parts": [part.to_dict() for part in self.parts],
            "read": [list(one) for one in self.read],
            "searched": [list(one) for one in self.searched],
            "unread": [list(one) for one in self.unread],
            "notes": list(self.notes),
        }


def combine(
    parts: Sequence[Part], *, searched: Sequence[Stretch], unread: Sequence[Stretch], notes: Sequence[str]
) -> LiveAnswer:
    """One answer of several: the surest, but what says that something is there before what says that nothing is."""

    def rank(part: Part) -> tuple[bool, float]:
        says_nothing = EMPTY.fullmatch(part.answer.text.strip().rstrip(".")) is not None
        sure = part.answer.confidence
        return says_nothing, -(NOT_SURE if sure is None else sure)

    ordered = sorted(parts, key=rank)
    best = ordered[0]
    return LiveAnswer(
        best.answer.text,
        best.answer.confidence,
        best,
        tuple(ordered),
        tuple(sorted(searched)),
        tuple(sorted(unread)),
        (*notes, *_said(parts, searched, unread)),
    )


def _said(parts: Sequence[Part], searched: Sequence[Stretch], unread: Sequence[Stretch]) -> list[str]:
    if not (searched or unread):
        return []
    said = [f"read: {_listed([(part.start, part.end) for part in parts])}"]
    if searched:
        said.append(f"only searched: {_listed(searched)}")
    if unread:
        said.append(f"neither read nor searched: {_listed(unread)}")
    return said


def _listed(stretches: Sequence[Stretch]) -> str:
    ordered = sorted(stretches)
    shown = ", ".join(f"{clock(start)}-{clock(end)}" for start, end in ordered[:5])
    return f"{shown} and {len(ordered) - 5} more" if len(ordered) > 5 else shown
