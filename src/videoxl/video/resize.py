"""Resizing with Pillow's bicubic filter: the same bytes under every Pillow version.

The released models were trained on pictures that Pillow had resized width first, then height, rounding to 8 bits in
between. Pillow 13 may begin with the height, and so may Pillow 12 where a picture is very tall. Two calls of one
dimension each leave it no choice. Everything in this package that resizes pictures for a model does it here.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from videoxl.video.frames import Pixels, Resize

PAD_COLOUR = (127, 127, 127)


def resize_picture(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Resize an RGB picture, first its width, then its height."""
    return picture.resize((width, picture.height), Image.Resampling.BICUBIC).resize(
        (width, height), Image.Resampling.BICUBIC
    )


def resize_pixels(pixels_HWC: Pixels, resize: Resize) -> Pixels:
    """Resize uint8 [H, W, 3] to uint8 [resize.height, resize.width, 3]."""
    picture = Image.fromarray(pixels_HWC)
    if resize.mode == "crop":
        return np.asarray(_crop(picture, resize.height))
    if resize.mode == "pad":
        picture = _pad_to_square(picture)
    return np.asarray(resize_picture(picture, resize.width, resize.height))


def _pad_to_square(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    if width == height:
        return picture
    side = max(width, height)
    square = Image.new("RGB", (side, side), PAD_COLOUR)
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def _crop(picture: Image.Image, side: int) -> Image.Image:
    """Resize the shorter edge to ``side`` and the longer one in proportion (rounded down); cut out the centre."""
    width, height = shortest_edge_size(picture.size, side)
    left, top = (width - side) // 2, (height - side) // 2
    return resize_picture(picture, width, height).crop((left, top, left + side, top + side))


def shortest_edge_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) whose shorter edge is ``side``; the longer one is rounded down."""
    width, height = size
    shortest = min(width, height)
    return side * width // shortest, side * height // shortest
