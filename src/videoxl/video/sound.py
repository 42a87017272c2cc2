"""Sound as speech models read it: one channel of 16,000 samples a second, on the video's own clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
"""Samples a second."""
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SoundChunk:
    """Some sound without a gap."""

    first: int
    """Number of its first sample: it sounds at ``first / 16000`` seconds from the start of the file."""
    samples_N: Samples
    """float32 [N], from -1 to 1."""

    @property
    def start_s(self) -> float:
        """Seconds from the start of the file."""
        return self.first / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        """Seconds from the start of the file."""
        return (self.first + len(self.samples_N)) / SAMPLE_RATE


@dataclass(frozen=True)
class Sound:
    """The sound of a video, to be read once. Where no chunk lies there is silence."""

    chunks: Iterator[SoundChunk]
    """In the order of time, none overlapping another. What could not be decoded is said in the source's warnings."""
    track: str
    """Which track of the file it is: ``stream 1 (eng, aac)``."""
    language: str
    """As the file says it; empty if it does not."""
    end_s: float | None
    """When it ends according to the file; None if that is unknown."""
