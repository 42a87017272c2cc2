"""What travels between stages: frames with their times, and how they are chosen and resized.

Shape letters: F frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from videoxl.config import Sampling

ResizeMode = Literal["stretch", "pad", "crop"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("stretch", "pad", "crop")


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


@dataclass(frozen=True, repr=False)
class Frames:
    """Pictures that are never parted from their times. Raises ``ValueError`` when the parts do not belong together."""

    pixels_FHWC: np.ndarray
    """uint8 [F, H, W, 3], RGB."""
    timestamps_F: np.ndarray
    """float64 [F], seconds from the start of the video, never descending."""
    indices_F: np.ndarray
    """int64 [F], frame numbers in presentation order, from 0."""

    def __post_init__(self) -> None:
        pixels, times, indices = self.pixels_FHWC, self.timestamps_F, self.indices_F
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ValueError(f"pixels_FHWC must be uint8 [F, H, W, 3], got {_describe(pixels)}")
        if times.dtype != np.float64 or times.shape != pixels.shape[:1]:
            raise ValueError(f"timestamps_F must be float64 [{len(pixels)}], got {_describe(times)}")
        if indices.dtype != np.int64 or indices.shape != pixels.shape[:1]:
            raise ValueError(f"indices_F must be int64 [{len(pixels)}], got {_describe(indices)}")
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise ValueError("timestamps_F must be finite and in ascending order")

    def __len__(self) -> int:
        return len(self.pixels_FHWC)

    def __repr__(self) -> str:
        span = f", {self.timestamps_F[0]:.2f}-{self.timestamps_F[-1]:.2f} s" if len(self) else ""
        return f"Frames({_describe(self.pixels_FHWC)}{span})"


@dataclass(frozen=True)
class Resize:
    """Target size of each frame, with Pillow's bicubic filter, bit for bit.

    ``stretch`` ignores the aspect ratio (SigLIP); ``pad`` first pads to a square with grey (127, 127, 127) (still
    pictures of Video-XL-2); ``crop`` brings the shortest edge to the size and cuts out the centre (CLIP).
    """

    height: int
    width: int
    mode: ResizeMode = "stretch"

    def __post_init__(self) -> None:
        if self.mode not in RESIZE_MODES:
            raise ValueError(f"unknown resize mode {self.mode!r}; available: {', '.join(RESIZE_MODES)}")
        for name, value in (("height", self.height), ("width", self.width)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of pixels of at least 1, got {value!r}")
        if self.mode != "stretch" and self.height != self.width:
            raise ValueError(f"mode={self.mode!r} makes squares, got height={self.height}, width={self.width}")


@dataclass(frozen=True)
class Selection:
    """Which frames will be read."""

    indices_F: np.ndarray
    """int64 [F], frame numbers in presentation order, never descending; a number may occur more than once."""
    timestamps_F: np.ndarray
    """float64 [F], seconds from the start of the video."""
    note: str | None = None
    """What a user should know about the choice, e.g. that a limit made it sparser than asked."""

    def __len__(self) -> int:
        return len(self.indices_F)


@dataclass(frozen=True)
class OpenSelection(Selection):
    """A choice made while frames arrive, for inputs whose length is not known: its two arrays are empty."""

    sampling: Sampling = field(default_factory=Sampling)
    """The rule each arriving frame is judged by."""
    whole_groups_of: int = 1
    """The number of frames handed out is a multiple of this (unless fewer arrive altogether)."""


def no_frames() -> tuple[np.ndarray, np.ndarray]:
    """Empty ``(indices_F, timestamps_F)``."""
    return np.empty(0, np.int64), np.empty(0, np.float64)
