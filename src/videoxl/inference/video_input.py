"""Choose which frames of an opened video a model reads, and at what size; for the engine and the processor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from numbers import Integral
from typing import Any, Literal

from videoxl.config import Sampling
from videoxl.model.configuration import VideoXLConfig
from videoxl.video import Resize, VideoSource, open_video
from videoxl.video.pictures import PAGES


def open_for_model(
    video: object, *, fps: float | None = None, timestamps: Sequence[float] | None = None, **options: Any
) -> AbstractContextManager[VideoSource]:
    """Call ``open_video``; ``fps`` is passed on only for inputs that do not know their own times.

    An opened :class:`VideoSource` is returned as it is, and the caller who opened it closes it.
    """
    if isinstance(video, VideoSource):
        return contextlib.nullcontext(video)
    is_file = isinstance(video, (str, os.PathLike)) and not os.path.isdir(video)
    knows_times = is_file or isinstance(video, Iterator)
    return open_video(
        video, fps=None if knows_times or timestamps is not None else fps, timestamps=timestamps, **options
    )


def _is_pictures(source: VideoSource) -> bool:
    return source.times_F is not None and source.info.reader == "memory"


def choose_sampling(
    source: VideoSource,
    given: Mapping[str, Any],
    *,
    frames: Iterable[float] | None = None,
    sampling: Sampling | None = None,
    frames_per_group: int = 1,
) -> tuple[Sampling, int]:
    """Choose the sampling rule, and the number that the count of frames must be a multiple of.

    ``given`` holds single sampling settings by name. Frames sampled from a file drop an unfilled last group, as the
    released loader for full prefill does (SPEC 3.5). Pictures that somebody chose are all read; ``fps`` then says when
    they were taken, not which to take. Raises ``ValueError`` for settings that contradict each other.
    """
    if sampling is not None and (frames is not None or any(v is not None for v in given.values())):
        raise ValueError("sampling= already holds all sampling settings: give either it or single settings")
    from_file = source.times_F is not None and not _is_pictures(source)
    if sampling is not None:
        return sampling, frames_per_group if from_file and sampling.times is None and sampling.indices is None else 1
    if frames is not None:
        chosen = tuple(frames)
        numbered = all(isinstance(frame, Integral) for frame in chosen)
        chosen = tuple(int(frame) if numbered else float(frame) for frame in chosen)
        settings: dict[str, Any] = {**given, "indices" if numbered else "times": chosen}
        return Sampling(**settings), 1
    if source.times_F is None:
        return Sampling(**given), 1
    if from_file:
        return Sampling(**given), 1 if source.info.container == PAGES else frames_per_group
    rest = {name: value for name, value in given.items() if name != "fps"}
    if all(value is None for value in rest.values()) and len(source.times_F) <= Sampling.DEFAULT_MAX_FRAMES:
        return Sampling(indices=tuple(range(len(source.times_F)))), 1
    if rest.get("num_frames") is not None:
        return Sampling(**rest), 1
    return Sampling(**rest, fps=source.info.fps), 1


def end_of(source: VideoSource, sampling: Sampling) -> float | None:
    """Return the second at which the last group of frames ends: the end of the range that was sampled.

    None: it is not known, or the frames were named one by one, so that nothing after the last one was asked for.
    """
    end, times_F = source.info.end, source.times_F
    if end is None or times_F is None:
        return None
    if sampling.times is not None or (sampling.indices is not None and sampling.indices[-1] != len(times_F) - 1):
        return None
    return end if sampling.end is None else min(float(sampling.end), end)


UNKNOWN_FRAMES = 768
"""Frames that a video of unknown length shares its budget of pixels among."""


def sized_for(source: VideoSource, frames: int | None, config: VideoXLConfig) -> VideoXLConfig:
    """The configuration for pictures of the size that ``frames`` frames of a source are brought to; None: unknown."""
    info = source.info
    if not config.traits.vision.any_size or not (info.width and info.height):
        return config
    return config.sized(frames or UNKNOWN_FRAMES, info.height, info.width, still=source.is_still)


def picture_size(source: VideoSource, side: int, fit: Literal["crop", "stretch"] = "stretch") -> Resize:
    """Choose square pictures of ``side``. Where frames are stretched, a single still is padded (SPEC 3.5)."""
    return Resize(side, side, mode="pad" if source.is_still and fit == "stretch" else fit)
