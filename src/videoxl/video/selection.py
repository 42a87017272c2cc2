"""From what a user asked for (:class:`Sampling`) and the true frame times to the frames that will be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video.frames import Selection
from videoxl.video.sampling import clock_indices, frames_at, keep_whole_groups, released_indices, uniform_indices


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown."""

    times_F: np.ndarray
    """float64 [F], seconds, ascending, at least one."""
    end: float
    """Seconds when the last frame leaves the screen."""
    fps: float
    """Frames per second (mean)."""
    variable_rate: bool
    """Whether ``frame number / fps`` may not stand for a frame's time."""

    @classmethod
    def from_times(cls, times_F: np.ndarray, declared_fps: float | None = None) -> Timeline:
        """Measure rate and regularity; a declared rate that fits the times within 1 % is kept, for its digits."""
        if len(times_F) < 2 or times_F[-1] <= times_F[0]:
            fps = declared_fps or 1.0
            return cls(times_F, float(times_F[-1]) + 1 / fps, fps, False)
        measured = (len(times_F) - 1) / float(times_F[-1] - times_F[0])
        fits = declared_fps is not None and abs(declared_fps / measured - 1) < 0.01
        fps = declared_fps if fits and declared_fps else measured
        straight = np.linspace(times_F[0], times_F[-1], len(times_F))
        variable = bool(np.abs(times_F - straight).max() > 1 / measured + 0.002)
        last_gap = float(np.median(np.diff(times_F)[-5:])) if variable else 1 / fps
        return cls(times_F, float(times_F[-1]) + last_gap, fps, variable)


def select_frames(timeline: Timeline, sampling: Sampling, whole_groups_of: int = 1) -> Selection:
    """Apply ``sampling``. Always at least one frame; raises ``VideoError`` ``no_frames_selected`` otherwise.

    ``whole_groups_of=4`` drops trailing frames that do not fill a group, as the released full-prefill loader does,
    but keeps everything when there is not even one whole group (there the released loader fails).
    """
    notes = []
    if sampling.indices is not None:
        indices = _named_numbers(timeline, sampling.indices)
    elif sampling.times is not None:
        indices = _named_times(timeline, sampling.times)
    else:
        first, last = _range(timeline, sampling)
        if sampling.num_frames is not None:
            indices = uniform_indices(last - first, sampling.num_frames) + first
        else:
            indices, note = _at_rate(timeline, sampling, first, last)
            notes += [note] if note else []
    whole = keep_whole_groups(indices, whole_groups_of)
    if 0 < len(whole) < len(indices):
        if sampling.num_frames or sampling.indices or sampling.times:
            notes.append(f"the last {len(indices) - len(whole)} of {len(indices)} frames do not fill a group of "
                         f"{whole_groups_of} and are left out")  # fmt: skip
        indices = whole
    return Selection(indices, timeline.times_F[indices], "; ".join(notes) or None)


def _named_numbers(timeline: Timeline, numbers: tuple[int, ...]) -> np.ndarray:
    count = len(timeline.times_F)
    if numbers[-1] >= count:
        raise VideoError(
            f"frame {numbers[-1]} was asked for, but the video has {count} frames: give numbers from 0 to {count - 1}",
            code="no_frames_selected",
        )
    return np.array(numbers, np.int64)


def _named_times(timeline: Timeline, times: tuple[float, ...]) -> np.ndarray:
    if times[-1] > timeline.end:
        raise VideoError(
            f"the frame at {times[-1]:g} s was asked for, but the video ends at {timeline.end:.2f} s",
            code="no_frames_selected",
        )
    return frames_at(timeline.times_F, np.array(times, np.float64))


def _range(timeline: Timeline, sampling: Sampling) -> tuple[int, int]:
    """Frame numbers [first, last) of ``start``..``end``; between two frames that is the one on screen at ``start``."""
    start = sampling.start or 0.0
    if start >= timeline.end:
        raise VideoError(
            f"start={start:g} s lies behind the end of the video, which lasts {timeline.end:.2f} s",
            code="no_frames_selected",
        )
    first = int(np.searchsorted(timeline.times_F, start))
    last = len(timeline.times_F) if sampling.end is None else int(np.searchsorted(timeline.times_F, sampling.end))
    if first < last:
        return first, last
    on_screen = int(frames_at(timeline.times_F, np.array([start]))[0])
    return on_screen, on_screen + 1


def _at_rate(timeline: Timeline, sampling: Sampling, first: int, last: int) -> tuple[np.ndarray, str | None]:
    fps = float(sampling.fps or Sampling.DEFAULT_FPS)
    most = sampling.max_frames or Sampling.DEFAULT_MAX_FRAMES
    times_F = timeline.times_F[first:last]
    end = float(timeline.times_F[last]) if last < len(timeline.times_F) else timeline.end
    if timeline.variable_rate:
        indices = clock_indices(times_F, end, fps, sampling.max_fps, most)
        wanted = len(clock_indices(times_F, end, fps, None, len(times_F)))
    else:
        # A rate above the video's own means every frame. Capping the rates there changes no other result.
        own = timeline.fps
        densest = None if sampling.max_fps is None else min(sampling.max_fps, own)
        indices = released_indices(last - first, own, min(fps, own), densest, most)
        wanted = len(released_indices(last - first, own, min(fps, own), None, 0))
    if wanted <= most:
        return indices + first, None
    true_fps = len(indices) / max(end - float(times_F[0]), 1e-9)
    note = f"{wanted} frames at {fps} fps exceed max_frames={most}: sampled evenly at {true_fps:.2g} fps"
    return indices + first, note
