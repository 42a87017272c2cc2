"""How a long video is cut into passes, so that each is read as densely as was asked for."""

from __future__ import annotations

import math
from typing import NamedTuple


class Pass(NamedTuple):
    """A stretch of video that is read at once, in seconds."""

    start: float
    end: float


def plan_passes(begin: float, end: float, *, fps: float, max_frames: int, overlap: float) -> list[Pass]:
    """One pass where ``max_frames`` at ``fps`` reach from ``begin`` to ``end``; else as few as do, all of one length.

    Neighbours share ``overlap`` seconds, or a quarter of a pass where that is less: what is no longer than that lies
    whole in one of them.
    """
    if not end > begin:
        raise ValueError(f"end={end} must be later than begin={begin}")
    if not math.isfinite(overlap) or overlap < 0:
        raise ValueError(f"overlap must be a finite number of seconds, 0 or more, got {overlap}")
    most, whole = max_frames / fps, end - begin
    if whole <= most:
        return [Pass(begin, end)]
    shared = min(overlap, most / 4)
    count = math.ceil((whole - shared) / (most - shared))
    step = (whole - shared) / count
    edges = [(begin + number * step, begin + number * step + step + shared) for number in range(count)]
    return [Pass(round(a, 3), end if number == count - 1 else round(b, 3)) for number, (a, b) in enumerate(edges)]
