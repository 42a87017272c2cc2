"""Films of the generated world: things, and the groups of frames in which they are shown.

A film is a row of groups, each ``step`` seconds long and four frames wide. In most groups there is only scenery. An
event shows one thing for one to three groups; between two events, and behind the last, there is at least one group of
scenery. Within a film no two things share a colour, a shape or a number, so every question has one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FRAMES_PER_GROUP = 4
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
CARD_SHARE = 0.3
"""The fraction of things that are cards."""
DURATIONS = (1, 1, 1, 2, 3)
"""Lengths of events in groups, drawn evenly from these."""
STEPS = (1, 2, 4, 4, 4, 8)
"""Seconds per group, drawn evenly from these; 4 is one frame a second."""
LAST_SECOND = 2600
"""No film ends later."""
MOST_EVENTS = 5


@dataclass(frozen=True)
class Thing:
    """A coloured shape, or a coloured card with a digit on it."""

    color: str
    shape: str | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        if (self.shape is None) == (self.number is None):
            raise ValueError(
                f"a thing is a shape or a card with a number, got shape={self.shape}, number={self.number}"
            )

    def __str__(self) -> str:
        """``red star``, ``red card with 7``."""
        return f"{self.color} {self.shape}" if self.shape else f"{self.color} card with {self.number}"

    @property
    def phrase(self) -> str:
        """The name with its article: ``an orange star``."""
        return f"{'an' if self.color[0] in 'aeiou' else 'a'} {self}"

    @property
    def name(self) -> str:
        """Enough to tell it from the others of its film: ``red star``, ``red card``."""
        return f"{self.color} {self.shape or 'card'}"


@dataclass(frozen=True)
class Event:
    """A thing shown in the groups from ``start`` to before ``end``."""

    thing: Thing
    start: int
    end: int


@dataclass(frozen=True)
class Film:
    """The things that a film shows, and when. ``seed`` fixes the rest of how it looks."""

    groups: int
    events: tuple[Event, ...]
    step: float = 4.0
    begin: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        edge = 0
        for event in self.events:
            if event.start < edge or event.end <= event.start or event.end >= self.groups:
                raise ValueError(
                    f"events must follow one another with scenery between and end before the last group: {event} in "
                    f"a film of {self.groups} groups"
                )
            edge = event.end + 1

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.groups * self.step

    def time_of(self, group: int) -> float:
        """Seconds at which a group begins."""
        return self.begin + group * self.step

    @property
    def timestamps(self) -> list[float]:
        """Seconds of every frame."""
        frames = self.groups * FRAMES_PER_GROUP
        return [self.begin + f * self.step / FRAMES_PER_GROUP for f in range(frames)]

    def thing_in(self, group: int) -> Thing | None:
        return next((e.thing for e in self.events if e.start <= group < e.end), None)


def sample_things(source: np.random.Generator, count: int) -> list[Thing]:
    """Things that share neither colour, shape nor number; at most eight."""
    if not 0 <= count <= len(COLORS):
        raise ValueError(f"a film has 0 to {len(COLORS)} things, got {count}")
    colors, shapes, numbers = (source.permutation(n) for n in (len(COLORS), len(SHAPES), 10))
    cards = source.random(count) < CARD_SHARE
    return [
        Thing(COLORS[colors[i]], number=int(numbers[i])) if cards[i] else Thing(COLORS[colors[i]], SHAPES[shapes[i]])
        for i in range(count)
    ]


def place_events(source: np.random.Generator, groups: int, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Starts and ends of events of these lengths anywhere in a film, never side by side, never in the last group."""
    spare = groups - sum(lengths) - len(lengths)
    if spare < 0:
        raise ValueError(f"{len(lengths)} events of {list(lengths)} groups do not fit a film of {groups}")
    before = np.sort(source.integers(0, spare + 1, len(lengths)))
    starts = before + np.concatenate([[0], np.cumsum(np.asarray(lengths[:-1], dtype=int) + 1)])[: len(lengths)]
    return [(int(start), int(start) + length) for start, length in zip(starts, lengths)]


def sample_film(
    source: np.random.Generator,
    groups: int,
    events: int | None = None,
    *,
    step: float | None = None,
    begin: float | None = None,
) -> Film:
    """A film of ``groups`` groups.

    Args:
        events: how many; default 1 to 5 as far as they fit, rarely none, mostly at least two.
        step: seconds per group; default one of :data:`STEPS`.
        begin: second at which it begins; default 0, within the first minute, or any, so that all times are met.
    """
    room = groups // 2
    if events is None:
        most = min(MOST_EVENTS, room)
        several = int(source.integers(2, most + 1)) if most > 1 else most
        events = int(source.choice([0, min(1, most), several], p=[0.02, 0.13, 0.85]))
    things = sample_things(source, events)
    lengths = [int(source.choice(DURATIONS)) for _ in things]
    while sum(lengths) + len(lengths) > groups:
        lengths[int(np.argmax(lengths))] -= 1
    places = place_events(source, groups, lengths)
    shown = tuple(Event(thing, *place) for thing, place in zip(things, places))
    if step is None:
        fitting = [s for s in STEPS if s * groups <= LAST_SECOND] or [LAST_SECOND // groups]
        step = int(source.choice(fitting))
    if begin is None:
        latest = float(source.choice([0, 60, LAST_SECOND - groups * step], p=[0.3, 0.3, 0.4]))
        begin = int(source.integers(0, max(1, int(min(latest, LAST_SECOND - groups * step)))))
    return Film(groups, shown, float(step), float(begin), int(source.integers(2**31)))
