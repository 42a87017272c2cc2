"""Where groups of frames lie: in time, and among the tokens of the video."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """One group of frames. Token offsets count from the begin of the visual span, uncompressed; ends are exclusive."""

    start_s: float
    end_s: float
    token_start: int
    visual_start: int
    token_end: int


def clock(seconds: float) -> str:
    """``1:02:03``, whole seconds."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
