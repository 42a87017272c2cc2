"""What is kept of one video, and what a search gives: plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from videoxl.catalogue.words import Span
from videoxl.cues import Track

Floats = npt.NDArray[np.float32]
SpaceKind = Literal["text", "frames"]
TrackName = Literal["subtitles", "speech", "screen", "frames"]
State = Literal["ready", "failed", "gone"]
Source = Literal["words", "meaning", "frames"]
SOURCES: tuple[Source, ...] = ("words", "meaning", "frames")
TRACK_NAMES: tuple[TrackName, ...] = ("subtitles", "speech", "screen", "frames")


class Embedder(Protocol):
    """A model that turns questions into vectors of length 1."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    def of_question(self, text: str) -> Floats:
        """The vector ``[D]`` of a question."""


@dataclass(frozen=True)
class Space:
    """Where the vectors of one model live: only those of the same model can be compared."""

    kind: SpaceKind
    model: str
    """Its name or folder."""
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of length 1, and the stretch of the video that each stands for."""

    space: Space
    times_N2: npt.NDArray[np.float64]
    """Begin and end in seconds."""
    vectors_ND: Floats


@dataclass(frozen=True, eq=False)
class IndexedTrack:
    """A track and its vectors: those of the passages of a text, or those of frames, which are a track without cues."""

    kind: TrackName
    settings: str
    """How it was made: while this is the same it is not made again."""
    track: Track | None = None
    vectors: Vectors | None = None


@dataclass(frozen=True, eq=False)
class Entry:
    """All that is kept of a video."""

    path: str
    digest: str
    size: int
    """Bytes of the file."""
    mtime_ns: int
    duration: float | None = None
    tracks: tuple[IndexedTrack, ...] = ()
    thumbnails: tuple[tuple[float, bytes], ...] = ()
    """Seconds and JPEG."""
    notes: tuple[str, ...] = ()
    """What a user should know about how it was read; not kept."""


@dataclass(frozen=True)
class Made:
    """How a track that is kept was made."""

    settings: str
    cues: int
    model: str
    """Fingerprint of the model of its vectors; empty where it has none."""


@dataclass(frozen=True)
class Video:
    """A video of the catalogue."""

    id: int
    path: str
    digest: str
    size: int
    """Bytes of the file."""
    mtime_ns: int
    duration: float | None
    state: State
    problem: str
    """Why it could not be read, or not in the way that was asked for last."""


@dataclass(frozen=True)
class Filter:
    """Which part of the catalogue is searched."""

    videos: frozenset[int] | None = None
    """Ids; None: all."""
    folder: str | None = None
    """Videos in this folder, or below it."""
    pattern: str | None = None
    """A pattern of file names, such as ``lecture*.mp4``; with a slash, of whole paths."""
    tracks: frozenset[TrackName] | None = None
    start: float | None = None
    """Only what ends after this second ..."""
    end: float | None = None
    """... and begins before this one."""

    def __post_init__(self) -> None:
        if self.tracks is not None and (unknown := sorted(self.tracks - {*TRACK_NAMES})):
            raise ValueError(f"unknown track {unknown[0]!r}; allowed: {', '.join(TRACK_NAMES)}")
        for name, value in (("start", self.start), ("end", self.end)):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be seconds of at least 0, got {value}")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError(f"the stretch from {self.start} to {self.end} s is empty: end must be after start")


@dataclass(frozen=True)
class Scores:
    """How well each source found a hit; None: it did not."""

    words: float | None = None
    """BM25; higher is better."""
    meaning: float | None = None
    """Cosine of a passage and the question."""
    frames: float | None = None
    """Cosine of a frame and the question."""


@dataclass(frozen=True)
class Hit:
    """A moment that was found."""

    video: int
    """Id of the video."""
    path: str
    start: float
    end: float
    """Seconds."""
    track: TrackName
    text: str
    """What is said or written there, or the part of it around what was looked for; empty for frames."""
    marks: tuple[Span, ...]
    """Where the words of the question stand in ``text``."""
    score: float
    """Fused by reciprocal rank; higher is better."""
    scores: Scores = field(default_factory=Scores)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return asdict(self)


class Hits(list[Hit]):
    """Hits, the best first, and what a user should know about the search."""

    notes: tuple[str, ...] = ()
