"""Frames that arrive one by one, from a camera or a generator: read once, of unknown length, none kept."""

from __future__ import annotations

import math
from collections.abc import Iterator

from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video.frames import Frames, OpenSelection, Resize, Selection, TimedPicture, no_frames
from videoxl.video.info import VideoInfo, VideoLimits
from videoxl.video.pictures import PictureLoader
from videoxl.video.pillow_image import bad_frames
from videoxl.video.resize import resize_pixels
from videoxl.video.sampling import ALMOST
from videoxl.video.source import VideoSource, batches, check_batch_frames


class StreamSource(VideoSource):
    """An iterator of (frame, seconds) pairs, read once."""

    times_F = None

    def __init__(self, pairs: Iterator[tuple[object, float]], limits: VideoLimits) -> None:
        self.name = "frame iterator"
        self.warnings = []
        self._pictures = PictureLoader(limits)
        self._pictures.warn_in(self.warnings)
        self._frames = self._checked(pairs)
        self._first = next(self._frames, None)
        if self._first is None:
            raise bad_frames("the frame iterator is empty")
        height, width = self._first[0].shape[:2]
        self.info = VideoInfo(
            width=width, height=height, duration=None, fps=None, frames=None, codec="raw", container="iterator"
        )

    def select(self, sampling: Sampling, *, whole_groups_of: int = 1) -> OpenSelection:
        """Frames are chosen while they arrive: at ``fps`` within ``start``..``end``.

        Raises ``ValueError`` for settings that need the length or frames still to come.
        """
        names = ("num_frames", "max_fps", "times", "indices")
        impossible = [name for name in names if getattr(sampling, name) is not None]
        if impossible:
            raise ValueError(
                f"{impossible[0]} needs a video whose length is known; give fps to read fewer frames of an iterator"
            )
        return OpenSelection(*no_frames(), "frames are chosen as they arrive", sampling, whole_groups_of)

    def read(self, selection: Selection, *, resize: Resize | None, batch_frames: int = 32) -> Iterator[Frames]:
        check_batch_frames(batch_frames)
        if not isinstance(selection, OpenSelection):
            raise ValueError("an iterator is read with the selection its own select() returned")
        if self._first is None:
            raise bad_frames("the frame iterator was read before: it gives its frames only once")
        first, self._first = self._first, None
        chosen = self._at_rate(self._with_first(first), selection.sampling)
        resized = ((resize_pixels(p, resize) if resize else p, t, i) for p, t, i in chosen)
        return batches(_whole_groups(resized, selection.whole_groups_of), batch_frames)

    def close(self) -> None:
        self._pictures.close()

    def _with_first(self, first: TimedPicture) -> Iterator[TimedPicture]:
        yield first
        yield from self._frames

    def _checked(self, pairs: Iterator[tuple[object, float]]) -> Iterator[TimedPicture]:
        before = -math.inf
        for number, pair in enumerate(pairs):
            try:
                picture, seconds = pair
                seconds = float(seconds)
            except (TypeError, ValueError):
                raise bad_frames(f"item {number} of the frame iterator is not a (frame, seconds) pair") from None
            if not math.isfinite(seconds) or seconds < 0 or seconds <= before:
                raise bad_frames(f"times must be finite, 0 or more and ascend, but {seconds:g} s follows {before:g} s")
            before = seconds
            yield self._pictures.load(picture), seconds, number

    def _at_rate(self, frames: Iterator[TimedPicture], sampling: Sampling) -> Iterator[TimedPicture]:
        """Yield the first frame at or after each tick of a clock that starts with the first frame in the range."""
        fps = sampling.fps or Sampling.DEFAULT_FPS
        most = sampling.max_frames or Sampling.DEFAULT_MAX_FRAMES
        start, end = sampling.start or 0.0, math.inf if sampling.end is None else sampling.end
        zero, next_tick, taken = None, 0, 0
        for frame in frames:
            seconds = frame[1]
            if seconds >= end:
                break
            if seconds < start:
                continue
            zero = seconds if zero is None else zero
            if (seconds - zero) * fps + ALMOST < next_tick:
                continue
            if taken == most:
                raise VideoError(
                    f"{self.name}: more than max_frames={most} frames at {fps:g} fps arrived by {seconds:g} s; "
                    "raise max_frames, lower fps, or set end",
                    code="limits_frames",
                )
            next_tick = math.floor((seconds - zero) * fps + ALMOST) + 1
            taken += 1
            yield frame
        if taken == 0:
            raise VideoError(
                f"{self.name}: no frame lies in start={start:g} s .. end={end:g} s", code="no_frames_selected"
            )


def _whole_groups(frames: Iterator[TimedPicture], group: int) -> Iterator[TimedPicture]:
    """Yield frames group by group; a last group that is not full is dropped unless it is the only one."""
    pending: list[TimedPicture] = []
    groups = 0
    for frame in frames:
        pending.append(frame)
        if len(pending) == group:
            yield from pending
            pending, groups = [], groups + 1
    if groups == 0:
        yield from pending
