"""Outlines of things as signed distances: negative inside, in units of the thing's radius."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Outline = Callable[[Array, Array], Array]

COLOR_VALUES = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (1.00, 0.95, 0.15),
    "green": (0.10, 0.65, 0.15),
    "cyan": (0.20, 0.90, 0.95),
    "blue": (0.15, 0.25, 0.95),
    "purple": (0.65, 0.15, 0.80),
    "white": (1.00, 1.00, 1.00),
}
DIGITS = (
    "111101101101111",
    "010110010010111",
    "111001111100111",
    "111001111001111",
    "101101111001001",
    "111100111001111",
    "111100111101111",
    "111001010010010",
    "111101111101111",
    "111101111001111",
)
"""Each digit as five rows of three cells."""
CARD_WIDTH, CARD_HEIGHT = 0.78, 1.05
DIGIT_WIDTH, DIGIT_HEIGHT = 0.48, 0.80


def _polygon(x: Array, y: Array, corners: int, inner: float) -> Array:
    """A star of ``corners`` points, whose dents lie ``inner`` from the middle."""
    sector = np.pi / corners
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    radius = np.hypot(x, y)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    dx, dy = inner * np.cos(sector) - 1.0, inner * np.sin(sector)
    distance: Array = ((px - 1.0) * dy - py * dx) / np.hypot(dx, dy)
    return distance


def _heart(x: Array, y: Array) -> Array:
    """Two circles on a corner that points down."""
    side = np.abs(x)
    lobe = np.hypot(side - 0.45, y + 0.35) - 0.53
    tip = np.maximum((side * 0.75 + (y - 0.98) * 0.66), -y - 0.35)
    distance: Array = np.minimum(lobe, tip)
    return distance


OUTLINES: dict[str, Outline] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.95,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.82,
    "triangle": lambda x, y: np.maximum(np.abs(x) * 0.866 - (y + 1.0) * 0.5 + 0.12, y - 0.72),
    "star": lambda x, y: _polygon(x, y, 5, 0.42),
    "cross": lambda x, y: np.minimum(
        np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.30), np.maximum(np.abs(x) - 0.30, np.abs(y) - 1.0)
    ),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.21,
    "heart": _heart,
    "moon": lambda x, y: np.maximum(np.hypot(x, y) - 1.0, 0.80 - np.hypot(x - 0.50, y)),
}


def card(x: Array, y: Array) -> Array:
    """The outline of a card."""
    distance: Array = np.maximum(np.abs(x) - CARD_WIDTH, np.abs(y) - CARD_HEIGHT)
    return distance


def digit(number: int, x: Array, y: Array) -> Array:
    """Whether a point lies on the strokes of a digit in the middle of a card: 1 or 0."""
    cells = np.array([int(c) for c in DIGITS[number]], dtype=np.float32).reshape(5, 3)
    column = np.floor((x / DIGIT_WIDTH + 1) * 1.5).astype(int)
    row = np.floor((y / DIGIT_HEIGHT + 1) * 2.5).astype(int)
    inside = (column >= 0) & (column < 3) & (row >= 0) & (row < 5)
    return np.where(inside, cells[row.clip(0, 4), column.clip(0, 2)], 0.0)
