"""Which places of the picture changed since they were last read.

A picture is compared as averages of 4 x 4 pixels, so the noise of video compression falls below the threshold while one
letter of the smallest text stays above it. A place keeps the picture in which it was last read, so that a change too
slow to be seen from one frame to the next is seen in the end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from videoxl.video.frames import Pixels
from videoxl.words.screen_ocr import Box

CELL = 4
"""Side in pixels of what is averaged."""
BLOCK = 16
"""Side in pixels of a place."""
THRESHOLD = 14.0
"""Difference in brightness, of 255, that is a change."""
MOST_OF_IT = 0.5
"""Where more of the picture changed, all of it is read."""

Mask = npt.NDArray[np.bool_]
"""Which places changed, [rows, columns]."""
Cells = npt.NDArray[np.float32]


class Changes:
    """What was last read, place by place."""

    def __init__(self) -> None:
        self._read: Cells | None = None
        self._seen: Cells | None = None

    def look(self, picture: Pixels) -> Mask:
        """Compare a picture [H, W, 3] with what was last read; everything changed in the first, or in another size."""
        self._seen = seen = _cells(picture)
        if self._read is None or self._read.shape != seen.shape:
            self._read = None
            return np.ones(tuple(length * CELL // BLOCK for length in seen.shape), np.bool_)
        different = np.abs(seen - self._read) > THRESHOLD
        per = BLOCK // CELL
        rows, columns = different.shape[0] // per, different.shape[1] // per
        blocks: Mask = different.reshape(rows, per, columns, per).any((1, 3))
        return blocks

    def was_read(self, regions: list[Box]) -> None:
        """The regions of the picture that was looked at last have been read."""
        if self._read is None or self._seen is None:
            self._read = self._seen
            return
        for left, top, right, bottom in regions:
            part = np.s_[int(top) // CELL : -(-int(bottom) // CELL), int(left) // CELL : -(-int(right) // CELL)]
            self._read[part] = self._seen[part]


def _cells(picture: Pixels) -> Cells:
    """Brightness averaged over cells; the picture is continued at its right and lower edge to whole blocks."""
    height, width = picture.shape[:2]
    luma = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    luma = np.pad(luma, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    rows, columns = luma.shape[0] // CELL, luma.shape[1] // CELL
    cells: Cells = luma.reshape(rows, CELL, columns, CELL).mean((1, 3), dtype=np.float32)
    return cells


def touched(box: Box, changed: Mask, margin: float = 0.0) -> bool:
    """Whether a place that changed lies in a box, or within ``margin`` pixels of it."""
    left, top, right, bottom = box
    rows = slice(max(0, int(top - margin) // BLOCK), int(bottom + margin) // BLOCK + 1)
    columns = slice(max(0, int(left - margin) // BLOCK), int(right + margin) // BLOCK + 1)
    return bool(changed[rows, columns].any())


def regions(changed: Mask, known: list[Box], width: int, height: int) -> list[Box]:
    """Boxes that hold all places that changed, with room around them, and all of the ``known`` boxes they touch.

    They do not overlap. It is the whole picture where most of it changed.
    """
    whole = (0.0, 0.0, float(width), float(height))
    if changed.mean() > MOST_OF_IT:
        return [whole]
    found = [_with_room(box, width, height) for box in [*_components(changed), *known]]
    while len(joined := _joined(found)) < len(found):
        found = joined
    if sum((b[2] - b[0]) * (b[3] - b[1]) for b in found) > MOST_OF_IT * width * height:
        return [whole]
    return found


def _components(changed: Mask) -> list[Box]:
    """The boxes, in pixels, of places that hang together; places with one place between them do."""
    left_over = {(int(row), int(column)) for row, column in np.argwhere(changed)}
    found = []
    while left_over:
        waiting = [left_over.pop()]
        together = []
        while waiting:
            row, column = waiting.pop()
            together.append((row, column))
            near = {(row + y, column + x) for y in (-2, -1, 0, 1, 2) for x in (-2, -1, 0, 1, 2)} & left_over
            left_over -= near
            waiting += near
        rows, columns = zip(*together)
        found.append((min(columns), min(rows), max(columns) + 1, max(rows) + 1))
    return [(a * BLOCK, b * BLOCK, c * BLOCK, d * BLOCK) for a, b, c, d in found]


def _with_room(box: Box, width: int, height: int) -> Box:
    left, top, right, bottom = box
    return (
        max(0.0, left - 2 * BLOCK),
        max(0.0, top - 2 * BLOCK),
        min(float(width), right + 2 * BLOCK),
        min(float(height), bottom + 2 * BLOCK),
    )


def _joined(boxes: list[Box]) -> list[Box]:
    joined: list[Box] = []
    for box in boxes:
        while met := next((other for other in joined if _overlap(box, other)), None):
            joined.remove(met)
            box = union(box, met)
        joined.append(box)
    return joined


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def union(a: Box, b: Box) -> Box:
    """The smallest box that holds both."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
