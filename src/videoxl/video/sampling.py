"""Frame numbers from rates and counts: pure functions, no video needed.

``released_indices`` and ``uniform_indices`` give exactly the numbers of the released models' own loaders, including
Python's rounding to even; they refuse with ``ValueError`` where those loaders fail.
"""

from __future__ import annotations

import numpy as np

ALMOST = 1e-6  # of a tick: times come from a file's clock and carry rounding noise


def released_indices(
    total_frames: int, average_fps: float, fps: float, max_fps: float | None, max_frames: int
) -> np.ndarray:
    """Frame numbers at ``fps``, up to ``max_fps`` while ``max_frames`` allows, or spread evenly above ``max_frames``.

    ``max_frames=0`` means no cap (and then no densening). Returns int64 [F], ascending. Raises ``ValueError`` when the
    rate of the video is unknown or below half the rate asked for.
    """
    if total_frames < 1:
        raise ValueError(f"a video of {total_frames} frames has nothing to choose from")
    if not average_fps > 0:
        raise ValueError(f"the frame rate of the video must be known and above 0, got {average_fps}")
    indices = np.arange(0, total_frames, _step(average_fps, fps), dtype=np.int64)
    if max_fps is not None:
        denser = min(max_frames // len(indices), max_fps)
        if denser > fps:
            indices = np.arange(0, total_frames, _step(average_fps, denser), dtype=np.int64)
    if 0 < max_frames < len(indices):
        return uniform_indices(total_frames, max_frames)
    return indices


def _step(average_fps: float, fps: float) -> int:
    step = round(average_fps / fps)
    if step < 1:
        raise ValueError(f"{fps} frames per second cannot be taken from a video of {average_fps} frames per second")
    return step


def uniform_indices(total_frames: int, count: int) -> np.ndarray:
    """``count`` frame numbers from the first to the last, truncated; numbers repeat when the video has fewer frames.

    Returns int64 [count], never descending.
    """
    if total_frames < 1 or count < 1:
        raise ValueError(f"cannot spread {count} frames over a video of {total_frames} frames")
    return np.linspace(0, total_frames - 1, count, dtype=np.int64)


def keep_whole_groups(indices_F: np.ndarray, group: int) -> np.ndarray:
    """Without the trailing frames that do not fill a group of ``group``; may be empty."""
    return indices_F[: len(indices_F) // group * group]


def frames_at(times_F: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """For each moment the number of the frame on screen: the last that began by then (before the first: the first)."""
    return np.maximum(np.searchsorted(times_F, seconds + ALMOST, side="right") - 1, 0).astype(np.int64)


def clock_indices(times_F: np.ndarray, end: float, fps: float, max_fps: float | None, max_frames: int) -> np.ndarray:
    """``released_indices`` on a constant-rate clock, for videos whose frames come at uneven times.

    The clock starts at ``times_F[0]`` and stops at ``end``; each tick takes the frame on screen and no frame is taken
    twice. Work and memory grow with the number of frames, never with the number of ticks, so a day without a new
    frame costs nothing. Returns int64 [F], ascending, at least one.
    """
    indices = _frames_with_a_tick(times_F, end, fps)
    if max_fps is not None:
        denser = min(max_frames // len(indices), max_fps)
        if denser > fps:
            indices = _frames_with_a_tick(times_F, end, denser)
    if len(indices) > max_frames:
        return np.unique(frames_at(times_F, np.linspace(times_F[0], times_F[-1], max_frames)))
    return indices


def _frames_with_a_tick(times_F: np.ndarray, end: float, fps: float) -> np.ndarray:
    """Frame i is on screen in [t_i, t_i+1): it is taken when a whole number of ticks falls in there."""
    begins = (times_F - times_F[0]) * fps - ALMOST
    ends = np.append(begins[1:], (end - times_F[0]) * fps - ALMOST)
    taken = np.ceil(begins) < ends
    taken[0] = True
    return np.flatnonzero(taken).astype(np.int64)
