"""The record of an answer: one shape for one question, several, or many videos, in JSON, tables and Python."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

from videoxl.inference.answers import Answer
from videoxl.json_lines import encode_json
from videoxl.memory.types import ReadStats
from videoxl.settings import from_json

Json = dict[str, Any]
"""Plain values, as JSON has them."""


class Record(Protocol):
    """What a file of rows holds: a row that says which video it is about, and whether that failed."""

    @property
    def video(self) -> str: ...
    @property
    def error(self) -> str | None: ...
    @property
    def warnings(self) -> list[str]: ...
    @property
    def key(self) -> str: ...
    @property
    def settings(self) -> Json: ...
    def to_dict(self) -> Json: ...
    @classmethod
    def from_json(cls, line: bytes) -> Self: ...
    def of_another(self, video: str) -> Self: ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class AnswerRecord:
    """An answer to one question about one video, or why there is none. All values are plain."""

    video: str
    """Path of the video, as it was given or found."""
    model: str
    question: str
    answer: str | None
    """None where ``error`` says why."""
    confidence: float | None = None
    """Mean natural log-probability of the answer's tokens."""
    choices: list[Json] = field(default_factory=list)
    """With ``choices``: ``text``, ``probability``, ``logprob`` and ``tokens`` of each option."""
    parsed: Any = None
    """With ``schema``: what the JSON holds."""
    logprobs: list[Json] | None = None
    """With ``logprobs``: every token that the model wrote."""
    alternatives: list[Json] = field(default_factory=list)
    """With ``n``: the other answers."""
    first: Json | None = None
    """With ``look_again``: the answer before the second look, with its evidence. With another model's endpoint: the
    answer of the memory's own model."""
    elsewhere: Json | None = None
    """Which other model answered, and the frames that it got; see :class:`~videoxl.Elsewhere`."""
    read: list[Json] = field(default_factory=list)
    """Stretches that were read in full detail: ``start`` and ``end`` in seconds, ``relevance`` from 0 to 1."""
    evidence: list[Json] = field(default_factory=list)
    """Stretches that the answer's own tokens looked at: ``start``, ``end`` and a share of attention."""
    quotes: list[Json] = field(default_factory=list)
    """What was said or written in these stretches, where tracks were read: ``start``, ``end``, ``track``, ``text``."""
    usage: Json | None = None
    """See :class:`~videoxl.Usage`."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    """Why there is no answer, in one line."""
    key: str = ""
    """Tells content, settings and question from all others: a resumed run asks nothing again that has this key."""
    settings: Json = field(default_factory=dict)
    """How it was asked: the same for all rows of a file."""

    @classmethod
    def of(cls, answer: Answer, **known: Any) -> AnswerRecord:
        """The record of an answer. ``known``: ``video``, ``model``, ``question``, ``key``, ``settings``."""
        found = answer.to_dict()
        return cls(answer=found.pop("text"), **found, **known)

    def to_dict(self) -> Json:
        """Convert to plain data. Every record has all names, in the same order."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: bytes) -> AnswerRecord:
        """Read what :meth:`to_dict` gave as JSON. Raises ``ValueError`` for anything else."""
        return from_json(cls, line)

    def of_another(self, video: str) -> AnswerRecord:
        """The same record for a file with the same content."""
        return replace(self, video=video, warnings=[*self.warnings, _same_as(self.video)])


@dataclass(frozen=True)
class MemoryRecord:
    """A memory that was written, or why there is none. All values are plain."""

    video: str
    model: str
    memory: str | None
    """Path of the memory file; None where ``error`` says why."""
    file_bytes: int | None = None
    usage: Json | None = None
    """What reading it cost."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    key: str = ""
    settings: Json = field(default_factory=dict)

    @classmethod
    def of(cls, usage: ReadStats, **known: Any) -> MemoryRecord:
        """The record of a memory that cost ``usage``. ``known``: the other fields."""
        return cls(usage=usage.to_dict(), **known)

    def to_dict(self) -> Json:
        """Convert to plain data. Every record has all names, in the same order."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: bytes) -> MemoryRecord:
        """Read what :meth:`to_dict` gave as JSON. Raises ``ValueError`` for anything else."""
        return from_json(cls, line)

    def of_another(self, video: str) -> MemoryRecord:
        """The same memory for a file with the same content."""
        return replace(self, video=video, warnings=[*self.warnings, _same_as(self.video)])


def _same_as(video: str) -> str:
    return f"has the same content as {video}, and was not read again"


def key_of(digest: str, settings: Mapping[str, object], question: str = "") -> str:
    """Hash what an answer follows from: the content, the settings, the question. 32 hexadecimal digits."""
    return hashlib.sha256(encode_json([digest, dict(sorted(settings.items())), question])).hexdigest()[:32]
