"""Frames grouped into tiles: what goes through the model in one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

GROUPS_PER_TILE = 24
"""Groups per step, at most: about 3,700 tokens at true size. The released token synthesis runs on as many."""
FRAMES_PER_TILE = 4 * GROUPS_PER_TILE
PATCHES_PER_TILE = FRAMES_PER_TILE * 27**2
"""Patches of pictures of any size that go through the vision tower together, at most: those of so many squares."""


@dataclass(frozen=True)
class Tile:
    """Frames that go through the model together."""

    pixels: torch.Tensor
    """8-bit ``[F, H, W, 3]``, or normalised ``[F, 3, H, W]``."""
    timestamps: tuple[float, ...]
    still: bool = False
    """Whether these are the crops of one still picture, the whole of it first."""
    on_device: torch.Tensor | None = None
    """``pixels`` where the vision tower is, once they are there or on their way."""
    arrived: torch.cuda.Event | None = None
    """Happens when the copy to the device is complete."""


class FrameBatch(Protocol):
    """Decoded frames and their times."""

    @property
    def pixels_FHWC(self) -> np.ndarray: ...  # noqa: N802

    @property
    def timestamps_F(self) -> np.ndarray: ...  # noqa: N802


def tiles(batches: Iterable[FrameBatch], frames_per_tile: int) -> Iterator[Tile]:
    """Regroup batches of any size into tiles of exactly ``frames_per_tile`` frames; the last one may be shorter."""
    pixels: list[np.ndarray] = []
    times: list[float] = []
    for batch in batches:
        pixels.extend(batch.pixels_FHWC)
        times.extend(float(t) for t in batch.timestamps_F)
        while len(times) >= frames_per_tile:
            yield _tile(pixels[:frames_per_tile], times[:frames_per_tile])
            del pixels[:frames_per_tile], times[:frames_per_tile]
    if times:
        yield _tile(pixels, times)


def _tile(pixels: Sequence[np.ndarray], times: Sequence[float]) -> Tile:
    return Tile(torch.from_numpy(np.stack(pixels)), tuple(times))
