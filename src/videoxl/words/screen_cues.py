"""Joins lines of one block that came and went together to cues, in reading order."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from videoxl.cues import ScreenCue
from videoxl.words.screen_changes import union
from videoxl.words.screen_lines import Line, same_row
from videoxl.words.screen_ocr import Box

SAME_LETTERS = 1.5
"""Lines of one block have letters of about one height."""
GAP = 1.0
"""Heights of a line that may lie between two lines of a block."""
WORD_GAP = 1.5
"""Heights of a line that may lie between two words in one row."""

Times = Callable[[Line], tuple[float, float]]


def cues_of(lines: Iterable[Line], times: Times, width: int, height: int) -> tuple[ScreenCue, ...]:
    """Cues of lines that are in the order in which they came. ``times``: begin and end of a line in seconds."""
    return tuple(_cue(block, times, width, height) for block in _blocks(lines))


def _blocks(lines: Iterable[Line]) -> list[list[Line]]:
    blocks: list[list[Line]] = []
    recent: list[list[Line]] = []
    for line in lines:
        recent = [block for block in recent if line.first - block[0].first <= 1]
        met = [block for block in recent if _belongs(line, block)]
        joined = [line]
        for block in met:  # a line may stand between two blocks
            joined = block + joined
            recent.remove(block)
            blocks.remove(block)
        joined.sort(key=lambda one: one.first)
        recent.append(joined)
        blocks.append(joined)
    return blocks


def _belongs(line: Line, block: Sequence[Line]) -> bool:
    begun = block[0]
    late = 0 if line.moved or begun.moved else 1
    if abs(line.first - begun.first) > late or abs(line.last - begun.last) > late or line.window or begun.window:
        return False
    return any(_adjacent(line, other) for other in block)


def _adjacent(a: Line, b: Line) -> bool:
    size = min(a.reading.size, b.reading.size)
    if max(a.reading.size, b.reading.size) > SAME_LETTERS * size or a.reading.vertical != b.reading.vertical:
        return False
    one, other = a.reading.box, b.reading.box
    if a.reading.vertical:
        one, other = _transposed(one), _transposed(other)
    across = max(one[0], other[0]) - min(one[2], other[2])
    if same_row(one, other):
        return across <= WORD_GAP * size
    down = max(one[1], other[1]) - min(one[3], other[3])
    return down <= GAP * size and across < 0


def _transposed(box: Box) -> Box:
    return box[1], box[0], box[3], box[2]


def _cue(block: Sequence[Line], times: Times, width: int, height: int) -> ScreenCue:
    spans = [times(line) for line in block]
    path = block[0].path
    for line in block[1:]:
        path = union(path, line.path)
    box = (
        min(1.0, max(0.0, path[0] / width)),
        min(1.0, max(0.0, path[1] / height)),
        min(1.0, max(0.0, path[2] / width)),
        min(1.0, max(0.0, path[3] / height)),
    )
    sure = fmean(line.reading.confidence for line in block)
    begin, end = min(span[0] for span in spans), max(span[1] for span in spans)
    return ScreenCue(begin, end, _text(block), box, min(1.0, sure))


def _text(block: Sequence[Line]) -> str:
    """Rows from top to bottom, words of a row from left to right; columns of vertical Chinese from right to left."""
    if block[0].reading.vertical:
        backwards = any("CJK" in unicodedata.name(c, "") for c in block[0].text)
        ordered = sorted(block, key=lambda line: line.reading.box[0], reverse=backwards)
        return "\n".join(line.text for line in ordered)
    rows: list[list[Line]] = []
    for line in sorted(block, key=lambda line: line.reading.box[1]):
        row = next((row for row in rows if same_row(row[0].reading.box, line.reading.box)), None)
        if row is None:
            rows.append([line])
        else:
            row.append(line)
    return "\n".join(" ".join(line.text for line in sorted(row, key=lambda line: line.reading.box[0])) for row in rows)
