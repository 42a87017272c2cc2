"""Words on a video's own clock: cues, and tracks of them. Subtitles, what is said, what is written on screen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum


@dataclass(frozen=True)
class Cue:
    """A text and when it is on screen, in seconds on the video's own clock. Raises ``ValueError`` for other times."""

    start_s: float
    end_s: float
    text: str

    def __post_init__(self) -> None:
        if not (0 <= self.start_s <= self.end_s and math.isfinite(self.end_s)):
            raise ValueError(f"a cue needs 0 <= start <= end in seconds, got {self.start_s} to {self.end_s}")


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

    def within(self, start_s: float, end_s: float) -> Iterator[Cue]:
        """The cues of which a part lies between two seconds."""
        return (c for c in self.cues if c.start_s < end_s and (c.end_s > start_s or c.start_s >= start_s))

    def shown_from(self, start_s: float, end_s: float) -> Track:
        """This track with the cues that lie between two seconds, at least in part."""
        return replace(self, cues=tuple(self.within(start_s, end_s)))
