"""Messages between the front and its worker: dataclasses, as one line of JSON each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from videoxl.settings import from_plain

Json = dict[str, Any]


@dataclass(frozen=True)
class Read:
    """Read a file into a memory, and save it at ``target``. ``name``: the video's, for errors and warnings."""

    id: str
    path: str
    name: str
    target: str
    settings: Json
    max_seconds: float


@dataclass(frozen=True)
class Ask:
    """A question about the memory in a file. ``history``: earlier (question, answer) pairs."""

    id: str
    memory: str
    question: str
    generation: Json
    history: list[tuple[str, str]] = field(default_factory=list)
    decode: str | None = None
    stream: bool = False


@dataclass(frozen=True)
class Cancel:
    """Do not begin, or stop, what has this id."""

    id: str


@dataclass(frozen=True)
class Forget:
    """Let go of a memory that was loaded from this file."""

    memory: str


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""

    model: str
    family: str
    fingerprint: str
    device: str
    dtype: str


@dataclass(frozen=True)
class Progressed:
    """How far a reading is; ``total`` is None if unknown."""

    id: str
    phase: str
    done: int
    total: int | None


@dataclass(frozen=True)
class ReadDone:
    """A memory was saved. ``facts``: frames, tokens, seconds, bytes, warnings."""

    id: str
    facts: Json


@dataclass(frozen=True)
class Said:
    """A piece of an answer."""

    id: str
    text: str


@dataclass(frozen=True)
class Answered:
    """An answer is complete; ``answer`` is :meth:`videoxl.Answer.to_dict`."""

    id: str
    answer: Json


@dataclass(frozen=True)
class Failed:
    """A request came to nothing. ``code``: a word of :mod:`videoxl.errors` or of :mod:`.problems`."""

    id: str
    code: str
    message: str


Request = Read | Ask | Cancel | Forget
Reply = Ready | Progressed | ReadDone | Said | Answered | Failed
_KINDS = {kind.__name__: kind for kind in (*get_args(Request), *get_args(Reply))}
MAX_LINE = 64 * 2**20
"""Longest line, in bytes: an answer with the log-probabilities of many tokens is some megabytes."""


def to_line(message: Request | Reply) -> bytes:
    """One line, which ends in a line feed."""
    return json.dumps([type(message).__name__, asdict(message)], separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Request | Reply:
    """Inverse of :func:`to_line`. Raises ``ValueError`` for anything else."""
    name, values = json.loads(line)
    found: Request | Reply = from_plain(_KINDS[name], values)
    return found
