"""Cues joined into passages: a few seconds of speech say too little to be compared by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoxl.cues import Cue

LENGTH_S = 20.0
"""A passage ends with the first cue that makes it this long."""
PAUSE_S = 5.0
"""A longer pause ends it too."""
MOST_CHARACTERS = 1000
"""About as many as a sentence model reads."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a track, and what is said in it."""

    start_s: float
    end_s: float
    text: str


def passages_of(cues: Sequence[Cue]) -> list[Passage]:
    """Join cues, which are in the order in which they begin. A text that only repeats is taken once."""
    made: list[Passage] = []
    held: list[Cue] = []
    for cue in cues:
        if held and _ends(held, cue):
            made.append(_joined(held))
            held = []
        held.append(cue)
    if held:
        made.append(_joined(held))
    return [passage for passage in made if passage.text]


def _ends(held: Sequence[Cue], cue: Cue) -> bool:
    end = max(one.end_s for one in held)
    long = end - held[0].start_s >= LENGTH_S or sum(len(one.text) for one in held) >= MOST_CHARACTERS
    return long or cue.start_s - end > PAUSE_S


def _joined(held: Sequence[Cue]) -> Passage:
    texts = dict.fromkeys(" ".join(cue.text.split()) for cue in held)
    text = " ".join(one for one in texts if one)[: 2 * MOST_CHARACTERS]
    return Passage(held[0].start_s, max(cue.end_s for cue in held), text)
