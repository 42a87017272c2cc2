"""Messages between the front, its worker and its indexer: dataclasses, as one line of JSON each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from videoxl.settings import from_plain

Json = dict[str, Any]
STREAM = "stream://"
"""Before the id of a stream, where a memory could stand."""


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
    about: str | tuple[float, float] | None = None
    """Of a stream: ``now``, ``all``, or seconds of its axis."""


@dataclass(frozen=True)
class Cancel:
    """Do not begin, or stop, what has this id."""

    id: str


@dataclass(frozen=True)
class Watch:
    """Watch a stream into a folder. ``settings``: of :class:`videoxl.live.settings.WatchSettings`."""

    id: str
    url: str
    folder: str
    fps: float
    settings: Json


@dataclass(frozen=True)
class Unwatch:
    """Watch a stream no more."""

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
    two_levels: bool = False
    """Whether the model can answer by bi-level decoding."""


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
class StreamTold:
    """What happened in a stream, and how far it was read."""

    id: str
    events: list[Json]
    at: float


@dataclass(frozen=True)
class StreamEnded:
    """A stream is watched no more; ``code``: empty where it ended by itself or was asked to."""

    id: str
    code: str
    message: str


@dataclass(frozen=True)
class Failed:
    """A request came to nothing. ``code``: a word of :mod:`videoxl.errors` or of :mod:`.problems`."""

    id: str
    code: str
    message: str


@dataclass(frozen=True)
class Index:
    """Keep what is said, written and seen in a file, so that it is found. ``given_up``: why not to open it."""

    path: str
    given_up: str = ""


@dataclass(frozen=True)
class Unindex:
    """Forget files."""

    paths: list[str]


@dataclass(frozen=True)
class Embed:
    """Turn a question into a vector. ``source``: meaning or frames."""

    id: str
    source: str
    text: str


@dataclass(frozen=True)
class QuestionModel:
    """A model that reads questions."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class IndexerReady:
    """The models of the indexer are loaded; None: there is none. ``notes``: what it does not do, and why."""

    meaning: QuestionModel | None
    frames: QuestionModel | None
    notes: list[str]


@dataclass(frozen=True)
class Indexed:
    """A file was dealt with; ``problem``: why it is not, or not wholly, in the index."""

    path: str
    problem: str = ""


@dataclass(frozen=True)
class Embedded:
    """The vector of a question."""

    id: str
    vector: list[float]


Request = Read | Ask | Cancel | Forget | Watch | Unwatch
Reply = Ready | Progressed | ReadDone | Said | Answered | StreamTold | StreamEnded | Failed
IndexRequest = Index | Unindex | Embed
IndexReply = IndexerReady | Indexed | Embedded | Failed
Message = Request | Reply | IndexRequest | IndexReply
_KINDS = {kind.__name__: kind for kind in get_args(Message)}
MAX_LINE = 64 * 2**20
"""Longest line, in bytes: an answer with the log-probabilities of many tokens is some megabytes."""


def to_line(message: Message) -> bytes:
    """One line, which ends in a line feed."""
    return json.dumps([type(message).__name__, asdict(message)], separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """Inverse of :func:`to_line`. Raises ``ValueError`` for anything else."""
    name, values = json.loads(line)
    found: Message = from_plain(_KINDS[name], values)
    return found
