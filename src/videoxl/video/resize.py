"""Resizing, bit for bit as Pillow's bicubic filter does it (what the released models were trained on)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from videoxl.video.frames import Resize

PAD_COLOUR = (127, 127, 127)


def resize_pixels(pixels_HWC: np.ndarray, resize: Resize) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [resize.height, resize.width, 3]."""
    picture = Image.fromarray(pixels_HWC)
    if resize.mode == "crop":
        return np.asarray(_crop(picture, resize.height))
    if resize.mode == "pad":
        picture = _pad_to_square(picture)
    return np.asarray(picture.resize((resize.width, resize.height), Image.Resampling.BICUBIC))


def _pad_to_square(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    if width == height:
        return picture
    side = max(width, height)
    square = Image.new("RGB", (side, side), PAD_COLOUR)
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def _crop(picture: Image.Image, side: int) -> Image.Image:
    """Shortest edge to ``side``, the longer one truncated to whole pixels, then the centre square."""
    width, height = picture.size
    shortest = min(width, height)
    size = (side * width // shortest, side * height // shortest)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
