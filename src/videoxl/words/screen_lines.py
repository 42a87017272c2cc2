"""Follows lines of text from one frame that is read to the next: those that stay, grow, move, and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from videoxl.words.screen_changes import union
from videoxl.words.screen_ocr import Box, Reading
from videoxl.words.screen_text import grown, rolled_on, same_text

UNCERTAIN = 0.75
"""A reading below this is of the same text as any other in its place."""
SAME_PLACE = 0.5
"""Intersection over union of two boxes that are one place."""
SAME_SIZE = 1.35
"""Ratio of the heights of letters up to which they may be one text that moved."""
SAME_ROW = 0.6
"""Share of the height that two boxes in one row have in common."""
MOST_LETTERS = 240
"""A text that rolls on is cut into cues of at most so many letters; the next begins with what is on screen."""
FIRST_WINDOWS, ONE_WINDOW = 0.4, 0.15
"""Share of what is on screen that a text which may roll on, or does, must have in common with the frame before."""


@dataclass(eq=False)
class Line:
    """A line of text over the frames in which it was seen, by the numbers of these among all that were read."""

    reading: Reading
    """The surest one."""
    box: Box
    """Where it is now."""
    first: int
    last: int
    path: Box
    """All places where it was."""
    moved: bool = False
    window: str = ""
    """What of a text that rolls on was to be seen last; empty for others."""
    missing: bool = False
    """Whether it was looked for and not found in the frame before."""

    @property
    def text(self) -> str:
        return self.reading.text

    def stays(self, frame: int) -> None:
        """It was not changed: nothing was read."""
        self.last, self.missing = frame, False

    def is_seen(self, reading: Reading, frame: int, *, moved: bool = False) -> None:
        """It was read again."""
        self.stays(frame)
        self.moved |= moved
        if reading.confidence > self.reading.confidence or grown(self.text, reading.text):
            self.reading = reading
        self.box, self.path = reading.box, union(self.path, reading.box)

    def rolls_on(self, reading: Reading, frame: int, text: str) -> None:
        """A further part of a moving text was read."""
        self.stays(frame)
        sure = (self.reading.confidence + reading.confidence) / 2
        self.reading = replace(reading, text=text, confidence=sure)
        self.moved, self.window = True, reading.text
        self.box, self.path = reading.box, union(self.path, reading.box)


Match = Callable[[Line, Reading, int], bool]
"""Whether a reading in a frame, by its number, is of a line; if so the line takes it."""


@dataclass
class Lines:
    """The lines that are on screen, and those that were."""

    shown: list[Line] = field(default_factory=list)
    ended: list[Line] = field(default_factory=list)

    def take(self, readings: list[Reading], looked_at: list[Line], frame: int) -> None:
        """Match what was read in a frame with the lines that may have changed; all others stay.

        A line that was not found goes on being looked for in one more frame: a detector misses one now and then.
        """
        left = [line for line in self.shown if line.missing or line in looked_at]
        for line in self.shown:
            if line not in left:
                line.stays(frame)
        for match in (_in_place, _has_grown, _has_moved, self._has_rolled):
            readings = [one for one in readings if not self._matched(one, left, frame, match)]
        for reading in readings:
            self.shown.append(Line(reading, reading.box, frame, frame, reading.box))
        self._end([line for line in left if line.missing])
        for line in left:
            line.missing = True

    def finish(self) -> list[Line]:
        """All lines, in the order in which they came."""
        self._end(list(self.shown))
        return sorted(self.ended, key=lambda line: (line.first, line.path[1], line.path[0]))

    def _matched(self, reading: Reading, left: list[Line], frame: int, match: Match) -> bool:
        line = next((one for one in left if match(one, reading, frame)), None)
        if line is not None:
            left.remove(line)
        return line is not None

    def _has_rolled(self, line: Line, reading: Reading, frame: int) -> bool:
        moved = line.box[0] - reading.box[0]
        size = reading.size
        if not same_row(line.box, reading.box) or not _same_size(line.reading, reading) or moved < -size:
            return False
        window = line.window or line.text
        found = rolled_on(line.text, window, reading.text, ONE_WINDOW if line.window else FIRST_WINDOWS)
        if found is None or not (line.window or found[1] or moved >= size / 2):
            return False
        text = found[0]
        if len(text) > MOST_LETTERS:
            self.ended.append(replace(line, last=frame - 1))
            line.first, line.path, text = frame, reading.box, reading.text
        line.rolls_on(reading, frame, text)
        return True

    def _end(self, lines: list[Line]) -> None:
        for line in lines:
            self.shown.remove(line)
            self.ended.append(line)


def _in_place(line: Line, reading: Reading, frame: int) -> bool:
    if not line.window and overlap(line.box, reading.box) >= SAME_PLACE and _one_text(line, reading):
        line.is_seen(reading, frame)
        return True
    return False


def _has_grown(line: Line, reading: Reading, frame: int) -> bool:
    """The line was written on, at its end; it begins where it began."""
    if line.window:
        return False
    size = max(line.reading.size, reading.size)
    begins = abs(line.box[0] - reading.box[0]) < size and same_row(line.box, reading.box)
    if begins and grown(line.text, reading.text):
        line.is_seen(reading, frame)
        return True
    return False


def _has_moved(line: Line, reading: Reading, frame: int) -> bool:
    sure = min(line.reading.confidence, reading.confidence)
    alike = _same_size(line.reading, reading) and same_text(line.text, reading.text, 0.0)
    if sure >= UNCERTAIN and alike and not line.window:
        line.is_seen(reading, frame, moved=True)
        return True
    return False


def _one_text(line: Line, reading: Reading) -> bool:
    sure = min(line.reading.confidence, reading.confidence)
    return sure < UNCERTAIN or same_text(line.text, reading.text, sure)


def _same_size(a: Reading, b: Reading) -> bool:
    small, large = sorted((a.size, b.size))
    return large <= SAME_SIZE * max(small, 1.0)


def same_row(a: Box, b: Box) -> bool:
    """Whether two boxes share most of their height."""
    common = min(a[3], b[3]) - max(a[1], b[1])
    return common >= SAME_ROW * min(a[3] - a[1], b[3] - b[1])


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def covered(a: Box, b: Box) -> float:
    """Share of ``a`` that lies in ``b``."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    area = (a[2] - a[0]) * (a[3] - a[1])
    return width * height / area if width > 0 and height > 0 and area > 0 else 0.0
