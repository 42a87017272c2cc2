"""How a long video is cut into passes, so that each is read as densely as was asked for."""

from __future__ import annotations

import math
from typing import NamedTuple


class Pass(NamedTuple):
    """A stretch of video that is read at once, in seconds."""

    start: float
    end: float


def plan_passes(
    begin: float, end: float, *, fps: float, max_frames: int, overlap: float, group: float = 0.0
) -> list[Pass]:
    """One pass where ``max_frames`` at ``fps`` reach from ``begin`` to ``end``; else as few as do, all of one length
    (the last may be shorter).

    Neighbours share ``overlap`` seconds, or a quarter of a pass where that is less: what is no longer than that lies
    whole in one of them. ``group``: seconds of frames that share a timestamp. Passes that are longer begin where groups
    do, so that what two of them see they see in the same groups.
    """
    if not end > begin:
        raise ValueError(f"end={end} must be later than begin={begin}")
    if not math.isfinite(overlap) or overlap < 0:
        raise ValueError(f"overlap must be a finite number of seconds, 0 or more, got {overlap}")
    most, whole = max_frames / fps, end - begin
    if whole <= most:
        return [Pass(begin, end)]
    shared = min(overlap, most / 4)
    longest = most - shared
    if 0 < group <= longest:
        longest = math.floor(longest / group + 1e-9) * group
    count = math.ceil((whole - shared) / longest - 1e-9)
    step = (whole - shared) / count
    if 0 < group <= longest:
        step = math.ceil(step / group - 1e-9) * group
    starts = [begin + number * step for number in range(count)]
    return [Pass(round(start, 3), round(min(start + step + shared, end), 3)) for start in starts]
