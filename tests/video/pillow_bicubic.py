"""Pillow's bicubic filter in numpy, step by step: width first, 8 bits, then height, 8 bits."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

BITS = 22
"""Pillow's weights are whole numbers of 1 / 2^22."""


def bicubic(pixels_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [height, width, 3]."""
    widened = _along_first(pixels_HWC.swapaxes(0, 1), width).swapaxes(0, 1)
    return _along_first(widened, height)


def resized(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """A Pillow picture to ``size`` (width, height)."""
    return bicubic(np.asarray(picture), *size)


def _along_first(pixels: np.ndarray, size: int) -> np.ndarray:
    if size == len(pixels):
        return pixels
    return np.stack([_mixed(pixels, *_weights(len(pixels), size, at)) for at in range(size)])


def _mixed(pixels: np.ndarray, first: int, weights: np.ndarray) -> np.ndarray:
    total = np.tensordot(weights, pixels[first : first + len(weights)].astype(np.int64), 1)
    return np.clip((total + (1 << BITS - 1)) >> BITS, 0, 255).astype(np.uint8)


def _weights(length: int, size: int, at: int) -> tuple[int, np.ndarray]:
    """(first pixel, int64 weights) of the pixels that make up output pixel ``at``."""
    scale = length / size
    stretch = max(scale, 1.0)
    centre, support = (at + 0.5) * scale, 2.0 * stretch
    first = max(int(centre - support + 0.5), 0)
    last = min(int(centre + support + 0.5), length)
    weights = [_cubic((x - centre + 0.5) / stretch) for x in range(first, last)]
    shares = [weight / sum(weights) for weight in weights]
    return first, np.array([math.trunc(s * (1 << BITS) + math.copysign(0.5, s)) for s in shares], np.int64)


def _cubic(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0
