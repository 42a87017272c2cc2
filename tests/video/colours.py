"""Brightness and colour differences from RGB and back, from the formulas of the standards."""

from __future__ import annotations

import numpy as np

RED_AND_BLUE = {
    "bt709": (1, 0.2126, 0.0722),
    "fcc": (4, 0.30, 0.11),
    "bt470bg": (5, 0.299, 0.114),
    "smpte170m": (6, 0.299, 0.114),
    "smpte240m": (7, 0.212, 0.087),
    "bt2020nc": (9, 0.2627, 0.0593),
}
"""Name of a matrix -> (its number in ITU-T H.273, weights of red and blue in brightness)."""


def levels(bits: int, full: bool) -> tuple[float, float, float, float]:
    """(black, height of brightness, zero of the differences, height of the differences)."""
    unit = 2.0 ** (bits - 8)
    if full:
        return 0.0, 256 * unit - 1, 128 * unit, 256 * unit - 1
    return 16 * unit, 219 * unit, 128 * unit, 224 * unit


def to_yuv(rgb: np.ndarray, matrix: str, full: bool, bits: int = 8) -> np.ndarray:
    """RGB in 0..255 [..., 3] -> stored numbers [..., 3]."""
    _, red, blue = RED_AND_BLUE[matrix]
    black, high, zero, span = levels(bits, full)
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    stored = np.rint(np.stack([black + high * y, zero + span * u, zero + span * v], -1))
    return np.clip(stored, 0, (1 << bits) - 1).astype(np.uint16)


def to_rgb(yuv: np.ndarray, matrix: str, full: bool, bits: int = 8) -> np.ndarray:
    """Stored numbers [..., 3] -> RGB in 0..255 [..., 3], not rounded."""
    _, red, blue = RED_AND_BLUE[matrix]
    black, high, zero, span = levels(bits, full)
    y, u, v = np.moveaxis(yuv.astype(np.float64), -1, 0)
    y, u, v = (y - black) / high, (u - zero) / span, (v - zero) / span
    r, b = y + (2 - 2 * red) * v, y + (2 - 2 * blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1), 0, 1) * 255
