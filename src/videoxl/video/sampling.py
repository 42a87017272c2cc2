"""Which frames are read: from :class:`Sampling` and the times of all frames to frame numbers.

:func:`released_indices` and :func:`uniform_indices` give exactly the numbers of the released models' own loaders,
including Python's rounding to even; they raise ``ValueError`` where those loaders fail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video.frames import Numbers, Selection, Times

LONGEST_WAIT = 1.0
"""A frame asked for at most so many seconds before the video begins is the first frame; earlier there is none."""
LONGEST_EXTRA = 1.0
"""A last frame may stay so many seconds longer than the others, and the frames still come at even times."""
ALMOST = 1e-6
"""Share of a tick by which a time may miss it: times in files are rounded."""


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown."""

    times_F: Times
    """float64 [F], seconds, ascending, at least one."""
    end: float
    """Seconds when the last frame leaves the screen."""
    fps: float
    """Frames per second (mean)."""
    variable_rate: bool
    """Whether frames come at uneven times, so that ``frame number / fps`` is not a frame's time."""

    @property
    def start(self) -> float:
        """Seconds when the first frame comes to the screen."""
        return float(self.times_F[0])

    @classmethod
    def from_times(cls, times_F: Times, declared_fps: float | None = None, end: float | None = None) -> Timeline:
        """Measure the rate. A declared rate is kept, for its digits, if it fits the times within 1 %.

        ``end``: when the last frame leaves the screen; if it is not known, it is shown as long as those before it.
        """
        last = float(times_F[-1])
        if len(times_F) < 2 or last <= times_F[0]:
            fps = declared_fps or 1.0
            return cls(times_F, end or last + 1 / fps, fps, False)
        measured = (len(times_F) - 1) / (last - float(times_F[0]))
        fits = declared_fps is not None and abs(declared_fps / measured - 1) < 0.01
        fps = declared_fps if fits and declared_fps else measured
        straight = np.linspace(times_F[0], times_F[-1], len(times_F))
        slack = 1 / measured + 0.002
        variable = bool(np.abs(times_F - straight).max() > slack)
        if end is None:
            last_gap = float(np.median(np.diff(times_F)[-5:])) if variable else 1 / fps
            return cls(times_F, last + last_gap, fps, variable)
        if end - last > 1 / measured + max(
            slack, LONGEST_EXTRA
        ):  # the last frame stays, as slides and screen recordings do
            return cls(times_F, end, len(times_F) / (end - float(times_F[0])), True)
        return cls(times_F, end, fps, variable)


def select_frames(timeline: Timeline, sampling: Sampling, whole_groups_of: int = 1) -> Selection:
    """Apply ``sampling``. Raises ``VideoError`` ``no_frames_selected`` when that leaves no frame.

    ``whole_groups_of=4`` drops the last frames that do not fill a group, as the released full-prefill loader does; but
    all frames are kept when they do not fill one group (there the released loader fails).
    """
    notes = []
    if sampling.indices is not None:
        indices = _named_numbers(timeline, sampling.indices)
    elif sampling.times is not None:
        indices, note = _named_times(timeline, sampling.times)
        notes += [note] if note else []
    else:
        first, last = _range(timeline, sampling)
        late = _late(timeline, sampling.start)
        notes += [late] if late else []
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


def _named_numbers(timeline: Timeline, numbers: tuple[int, ...]) -> Numbers:
    count = len(timeline.times_F)
    if numbers[-1] >= count:
        raise _none(
            f"frame {numbers[-1]} was asked for, but the video has {count} frames: give numbers from 0 to {count - 1}"
        )
    return np.array(numbers, np.int64)


def _named_times(timeline: Timeline, times: tuple[float, ...]) -> tuple[Numbers, str | None]:
    if times[-1] > timeline.end:
        raise _none(f"the frame at {times[-1]:g} s was asked for, but the video ends at {timeline.end:.2f} s")
    if times[0] < timeline.start - LONGEST_WAIT:
        raise _none(f"the frame at {times[0]:g} s was asked for, but the video begins at {timeline.start:.2f} s")
    return frames_at(timeline.times_F, np.array(times, np.float64)), _late(timeline, times[0])


def _late(timeline: Timeline, asked: float | None) -> str | None:
    """A note when the video begins clearly after the moment that was asked for."""
    if asked is None or asked + 1 / timeline.fps > timeline.start:
        return None
    return f"the video begins at {timeline.start:.2f} s: nothing was read from {asked:g} s on until then"


def _range(timeline: Timeline, sampling: Sampling) -> tuple[int, int]:
    """Frame numbers [first, last) of ``start``..``end``; where no frame begins in there, the one on screen then."""
    start = sampling.start or 0.0
    if start >= timeline.end:
        lasts = f"from {timeline.start:.2f} s to {timeline.end:.2f} s" if timeline.start else f"{timeline.end:.2f} s"
        raise _none(f"start={start:g} s lies after the end of the video, which lasts {lasts}")
    if sampling.end is not None and sampling.end <= timeline.start:
        raise _none(f"end={sampling.end:g} s lies before the video, which begins at {timeline.start:.2f} s")
    first = int(np.searchsorted(timeline.times_F, start))
    last = len(timeline.times_F) if sampling.end is None else int(np.searchsorted(timeline.times_F, sampling.end))
    if first < last:
        return first, last
    on_screen = int(frames_at(timeline.times_F, np.array([start]))[0])
    return on_screen, on_screen + 1


def _none(message: str) -> VideoError:
    return VideoError(message, code="no_frames_selected")


def _at_rate(timeline: Timeline, sampling: Sampling, first: int, last: int) -> tuple[Numbers, str | None]:
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


# ------------------------------------------------------------------------------------------ frame numbers by themselves


def released_indices(
    total_frames: int, average_fps: float, fps: float, max_fps: float | None, max_frames: int
) -> Numbers:
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


def uniform_indices(total_frames: int, count: int) -> Numbers:
    """``count`` frame numbers from the first to the last, truncated; numbers repeat when the video has fewer frames.

    Returns int64 [count], never descending.
    """
    if total_frames < 1 or count < 1:
        raise ValueError(f"cannot spread {count} frames over a video of {total_frames} frames")
    return np.linspace(0, total_frames - 1, count, dtype=np.int64)


def keep_whole_groups(indices_F: Numbers, group: int) -> Numbers:
    """Drop the last frames that do not fill a group of ``group``; may be empty."""
    return indices_F[: len(indices_F) // group * group]


def frames_at(times_F: Times, seconds: Times) -> Numbers:
    """For each moment the number of the frame on screen: the last that began by then (before the first: the first)."""
    return np.maximum(np.searchsorted(times_F, seconds + ALMOST, side="right") - 1, 0).astype(np.int64)


def clock_indices(times_F: Times, end: float, fps: float, max_fps: float | None, max_frames: int) -> Numbers:
    """:func:`released_indices` for videos whose frames come at uneven times.

    A clock ticks from ``times_F[0]`` to ``end``. Each tick takes the frame on screen, and no frame is taken twice. Time
    and memory grow with the number of frames, not of ticks, so a day without a new frame costs nothing. Returns int64
    [F], ascending, at least one.
    """
    indices = _frames_with_a_tick(times_F, end, fps)
    if max_fps is not None:
        denser = min(max_frames // len(indices), max_fps)
        if denser > fps:
            indices = _frames_with_a_tick(times_F, end, denser)
    if len(indices) > max_frames:
        return np.unique(frames_at(times_F, np.linspace(times_F[0], times_F[-1], max_frames)))
    return indices


def _frames_with_a_tick(times_F: Times, end: float, fps: float) -> Numbers:
    """Frame i is on screen from t_i to t_i+1: it is taken when a tick lies in between."""
    begins = (times_F - times_F[0]) * fps - ALMOST
    ends = np.append(begins[1:], (end - times_F[0]) * fps - ALMOST)
    taken = np.ceil(begins) < ends
    taken[0] = True
    return np.flatnonzero(taken).astype(np.int64)
