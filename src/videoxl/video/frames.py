"""Frames with their times, which frames are read, and how they are resized.

Shape letters: F frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from videoxl.config import Sampling

Pixels = npt.NDArray[np.uint8]
"""One picture [H, W, 3] or several [F, H, W, 3], RGB."""
Times = npt.NDArray[np.float64]
"""Seconds, [F]."""
Numbers = npt.NDArray[np.int64]
"""Whole numbers, such as frame numbers [F]."""
TimedPicture = tuple[Pixels, float, int]
"""(pixels [H, W, 3], seconds, frame number)."""

ResizeMode = Literal["stretch", "pad", "crop"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("stretch", "pad", "crop")


def describe_array(array: npt.NDArray[np.generic]) -> str:
    """Type and shape, such as ``uint8[2, 4, 6, 3]``."""
    return f"{array.dtype}{list(array.shape)}"


@dataclass(frozen=True, repr=False)
class Frames:
    """Pictures with their times. Raises ``ValueError`` when shapes or types do not fit."""

    pixels_FHWC: Pixels
    """uint8 [F, H, W, 3], RGB."""
    timestamps_F: Times
    """float64 [F], seconds from the start of the video, never descending."""
    indices_F: Numbers
    """int64 [F], frame numbers in presentation order, from 0."""

    def __post_init__(self) -> None:
        pixels, times, indices = self.pixels_FHWC, self.timestamps_F, self.indices_F
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ValueError(f"pixels_FHWC must be uint8 [F, H, W, 3], got {describe_array(pixels)}")
        if times.dtype != np.float64 or times.shape != pixels.shape[:1]:
            raise ValueError(f"timestamps_F must be float64 [{len(pixels)}], got {describe_array(times)}")
        if indices.dtype != np.int64 or indices.shape != pixels.shape[:1]:
            raise ValueError(f"indices_F must be int64 [{len(pixels)}], got {describe_array(indices)}")
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise ValueError("timestamps_F must be finite and in ascending order")

    def __len__(self) -> int:
        return len(self.pixels_FHWC)

    def __repr__(self) -> str:
        span = f", {self.timestamps_F[0]:.2f}-{self.timestamps_F[-1]:.2f} s" if len(self) else ""
        return f"Frames({describe_array(self.pixels_FHWC)}{span})"


@dataclass(frozen=True)
class Resize:
    """Size of each frame after resizing with Pillow's bicubic filter.

    ``stretch`` ignores the aspect ratio (SigLIP). ``pad`` first pads to a square with grey 127, 127, 127 (still
    pictures of Video-XL-2). ``crop`` resizes the shortest edge to the size and cuts out the centre (CLIP).
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

    indices_F: Numbers
    """int64 [F], frame numbers in presentation order, never descending; a number may occur more than once."""
    timestamps_F: Times
    """float64 [F], seconds from the start of the video."""
    note: str | None = None
    """What a user should know about the choice, e.g. that a limit made it sparser than asked."""

    def __len__(self) -> int:
        return len(self.indices_F)


@dataclass(frozen=True)
class OpenSelection(Selection):
    """Frames are chosen while they arrive, since the input's length is not known. Both arrays are empty."""

    sampling: Sampling = field(default_factory=Sampling)
    """Which of the arriving frames are chosen."""
    whole_groups_of: int = 1
    """The number of chosen frames is a multiple of this, unless fewer arrive."""


def no_frames() -> tuple[Numbers, Times]:
    """Empty ``(indices_F, timestamps_F)``."""
    return np.empty(0, np.int64), np.empty(0, np.float64)
