"""Cuts sound into pieces that a speech model reads one by one, so that memory does not grow with the video.

A piece ends in the middle of a pause. Where nobody pauses for minutes, two pieces overlap, and a border between them
says whose words count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from videoxl.video.sound import SAMPLE_RATE, Samples, SoundChunk

PIECE_SECONDS = 240.0
"""A piece is about so long, and at most half as long again."""
OVERLAP_SECONDS = 20.0
LONG_GAP = 5.0
"""Seconds without stored sound that end a piece."""
SHORTEST_PAUSE = 0.15
"""Seconds. Between words there may be less, within a word hardly more."""

Pauses = Callable[[Samples], list[tuple[int, int]]]
"""Where nobody speaks: (begin, end) in samples, in order."""


@dataclass(frozen=True)
class Piece:
    """Sound that is read at once."""

    start_s: float
    """Seconds from the start of the file."""
    samples_N: Samples
    overlap_s: float = 0.0
    """It begins with so many seconds of sound with which the piece before it ends."""

    @property
    def end_s(self) -> float:
        """Seconds from the start of the file."""
        return self.start_s + len(self.samples_N) / SAMPLE_RATE


def pieces(chunks: Iterable[SoundChunk], pauses: Pauses, piece_seconds: float = PIECE_SECONDS) -> Iterator[Piece]:
    """Yield all sound in pieces; gaps within one are silence. At most one and a half pieces are held at a time."""
    held = _Held(pauses, round(piece_seconds * SAMPLE_RATE))
    for chunk in chunks:
        if held.parts and chunk.first - held.end > LONG_GAP * SAMPLE_RATE:
            yield held.take(held.length, 0)
        held.add(chunk)
        while held.length > held.most:
            yield held.cut()
    if held.length:
        yield held.take(held.length, 0)


class _Held:
    """Sound that waits for the end of its piece."""

    def __init__(self, pauses: Pauses, usual: int) -> None:
        self._pauses = pauses
        self._usual = usual
        self.most = usual + usual // 2
        self.parts: list[Samples] = []
        self._first = 0
        self.length = 0
        self._overlap = 0

    @property
    def end(self) -> int:
        """Number of the sample that follows."""
        return self._first + self.length

    def add(self, chunk: SoundChunk) -> None:
        """Take more sound, and the silence before it."""
        if not self.parts:
            self._first = chunk.first
        gap = chunk.first - self.end
        self.parts += [np.zeros(gap, np.float32)] if gap else []
        self.parts.append(chunk.samples_N)
        self.length += gap + len(chunk.samples_N)

    def cut(self) -> Piece:
        """The first piece: to the middle of the longest pause behind its usual end, or a bit more than is its own."""
        whole_N = self._whole()
        low = self._usual
        found = [
            (b - a, a + b) for a, b in self._pauses(whole_N[low : self.most]) if b - a >= SHORTEST_PAUSE * SAMPLE_RATE
        ]
        if found:
            return self.take(low + max(found)[1] // 2, 0)
        return self.take(self.most, min(round(OVERLAP_SECONDS * SAMPLE_RATE), self._usual // 2))

    def take(self, length: int, overlap: int) -> Piece:
        """The first ``length`` samples, of which ``overlap`` stay."""
        whole_N = self._whole()
        piece = Piece(self._first / SAMPLE_RATE, whole_N[:length], self._overlap / SAMPLE_RATE)
        rest_N = whole_N[length - overlap :].copy()
        self.parts = [rest_N] if len(rest_N) else []
        self._first, self.length, self._overlap = self._first + length - overlap, len(rest_N), overlap
        return piece

    def _whole(self) -> Samples:
        if len(self.parts) > 1:
            self.parts = [np.concatenate(self.parts)]
        return self.parts[0]
