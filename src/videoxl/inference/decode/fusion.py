"""Relevance by several judges at once, and by the words that were said or written (docs/notes/selection.md)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from videoxl.memory.video_memory import VideoMemory

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Fused:
    """Several judges of relevance: names, or functions of the memory and the question."""

    parts: tuple[str | Callable[..., object], ...]

    @property
    def label(self) -> str:
        return "+".join(part if isinstance(part, str) else getattr(part, "__name__", "?") for part in self.parts)

    def __call__(self, memory: VideoMemory, question: str) -> np.ndarray:
        raise TypeError("a fused relevance is judged part by part")


def fused(scores: list[np.ndarray]) -> np.ndarray:
    """Scores of several judges that count alike: each with mean 0 and standard deviation 1, summed.

    A judge that tells no block from another adds nothing.
    """
    if len(scores) == 1:
        return scores[0]
    spreads = [each.std() for each in scores]
    total: np.ndarray = np.sum(
        [(each - each.mean()) / (spread or 1.0) for each, spread in zip(scores, spreads)], axis=0
    )
    return total


def word_scores(memory: VideoMemory, question: str) -> np.ndarray:
    """How much of a question is said or written in each group of frames ``[G]``: its words, rare ones count for more.

    A word counts ``log(1 + groups / groups that have it)``, once a group. Raises ``ValueError`` for a memory without
    tracks.
    """
    if not any(track.cues for track in memory.tracks):
        raise ValueError(
            "relevance='words' compares the question with words that were read, and this memory has none: "
            "encode(..., subtitles=...) or tracks=..., or relevance='attention'"
        )
    asked, found = words_of(question), [set[str]() for _ in memory.groups]
    begins = np.array([group.start_s for group in memory.groups])
    for track in memory.tracks:
        for cue in track.cues:
            said = words_of(cue.text) & asked
            first = max(0, int(np.searchsorted(begins, cue.start_s, side="right")) - 1)
            end = max(first + 1, int(np.searchsorted(begins, cue.end_s, side="left")))
            for group in range(first, end if said else 0):
                found[group] |= said
    groups_with = Counter(word for words in found for word in words)
    return np.array([sum(math.log(1 + len(found) / groups_with[word]) for word in words) for words in found])


def words_of(text: str) -> set[str]:
    """The words of a text, whatever their case."""
    return set(WORD.findall(text.casefold()))
