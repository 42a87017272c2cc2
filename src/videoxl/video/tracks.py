"""Tracks of cues on a video's own clock: its subtitles, what is said, what is written on screen."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from videoxl.video.subtitles import Cue


class TrackKind(StrEnum):
    """What the cues of a track are."""

    SUBTITLES = "subtitles"
    """A subtitle file, or a subtitle track of the video."""
    SPEECH = "speech"
    """What was heard, written down by a speech model."""
    SCREEN = "screen"
    """What was written on screen, read by a text recognition model."""


@dataclass(frozen=True)
class SpokenWord:
    """A word of speech with its times in seconds and its probability, from 0 to 1."""

    start_s: float
    end_s: float
    text: str
    probability: float


@dataclass(frozen=True)
class SpokenCue(Cue):
    """A segment of speech. ``confidence``: the mean probability of its words, from 0 to 1."""

    words: tuple[SpokenWord, ...] = ()
    confidence: float = 1.0


@dataclass(frozen=True)
class ScreenCue(Cue):
    """A text that was on screen.

    ``box``: left, top, right, bottom as fractions of the picture's width and height, from 0 to 1; ``confidence``: the
    model's, from 0 to 1.
    """

    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    confidence: float = 1.0


@dataclass(frozen=True)
class Track:
    """Cues of one kind, in the order in which they begin."""

    kind: TrackKind
    cues: tuple[Cue, ...]
    language: str = ""
    """Code of ISO 639 where it is known, such as ``en``."""
    source: str = ""
    """Where the cues come from: the name of a file, a track of the video, or the model that made them."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a user should know about it, a sentence each: no sound, a gap, a part that could not be read."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", TrackKind(self.kind))
        object.__setattr__(self, "cues", tuple(sorted(self.cues, key=lambda cue: cue.start_s)))
