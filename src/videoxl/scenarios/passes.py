"""Cut a long video into passes, so that each is read as densely as was asked for."""

from __future__ import annotations

import math
from typing import NamedTuple


class Pass(NamedTuple):
    """A part of a video that is read at once, in seconds."""

    start: float
    end: float


def plan_passes(
    begin: float, end: float, *, fps: float, max_frames: int, overlap: float, group: float = 0.0
) -> list[Pass]:
    """Cover ``begin`` to ``end`` (seconds) with as few passes of ``max_frames`` at ``fps`` as possible.

    All passes have one length; the last may be shorter. Neighbours share ``overlap`` seconds, or a quarter of a pass
    where that is less, so that an event of at most that length lies whole in one pass.

    ``group``: seconds of the frames that share a timestamp. Passes longer than a group begin where a group begins, so
    that two passes see the same groups in what they share.
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
