"""Inside the decoder process: where a file's clock begins, and when its last picture leaves the screen."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
from av.stream import Disposition

from videoxl.video.decoder.demux import OpenedStream
from videoxl.video.decoder.packets import Flags
from videoxl.video.frames import Numbers

EXACT_SHARE = 0.9
"""Durations that are all the same are believed when this share of them equals the time to the next picture; others
unless this share of those like the last one is at most half of that time."""
MOST_REORDERED = 16
"""Pictures are shown at most so many pictures after they were decoded."""
TYPICAL_GAPS = 5
"""A last picture of unknown duration is shown as long as the one in the middle of so many before it."""


def file_start(opened: OpenedStream, first_pts: int) -> Fraction:
    """The time, in seconds of the container's clock, at which the earliest stream of pictures or sound begins.

    Cover pictures do not count. ``first_pts``: the first picture of the chosen stream that is shown.
    """
    starts = [first_pts * time_unit(opened)]
    for stream in opened.container.streams:
        counts = stream.type in ("video", "audio") and not stream.disposition & Disposition.attached_pic
        if counts and stream.index != opened.stream.index and stream.start_time is not None and stream.time_base:
            starts.append(_shown_start(opened, stream.start_time) * stream.time_base)
    return min(starts)


def sound_start(opened: OpenedStream) -> float:
    """The time, in seconds of the container's clock, at which the earliest sound begins; 0 without sound."""
    streams = (s for s in opened.container.streams if s.type == "audio" and s.start_time is not None and s.time_base)
    return float(min((_shown_start(opened, s.start_time or 0) * (s.time_base or 0) for s in streams), default=0))


def _shown_start(opened: OpenedStream, start: int) -> int:
    """Before FFmpeg 8.1 the silence that an encoder puts before its sound counts in Matroska, as time before zero."""
    return max(start, 0) if opened.container.format.name.startswith("matroska") else start


def time_unit(opened: OpenedStream) -> Fraction:
    """Seconds in the unit in which the times of the chosen stream are given."""
    return opened.stream.time_base or Fraction(1, 90_000)


def stream_end(opened: OpenedStream) -> Fraction | None:
    """When the chosen stream ends according to the header, in seconds of the container's clock; None if unknown."""
    stream = opened.stream
    if opened.container.format.name.startswith("matroska"):  # FFmpeg would give the duration of the whole file
        tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3]) if tag else None
    if not stream.duration or opened.container.format.name == "asf":  # there too
        return None
    return ((stream.start_time or 0) + stream.duration) * time_unit(opened)


def last_end(pts_F: Numbers, ends_F: Numbers, declared: int | None, *, all_there: bool = False) -> int | None:
    """When the last picture leaves the screen, in the stream's unit; None when nothing says so.

    Args:
        pts_F: int64 [F], when each picture is shown, ascending.
        ends_F: int64 [F], until when each is shown according to its packets; equal to ``pts_F`` if they do not say.
        declared: the end of the stream according to the header.
        all_there: as many pictures were found as the header counts.
    """
    last = int(pts_F[-1])
    if declared is not None and declared <= last:
        declared = None
    if all_there and declared is not None and (ends_F == pts_F).all():
        return declared  # FFmpeg 7 gives no durations where an MP4 holds B-frames
    if _are_exact(pts_F, ends_F):
        # The picture that a long pause belongs to need not be the last one: MP4 gives durations in decoding order.
        end = int(ends_F[-1 - MOST_REORDERED :].max())
    elif len(pts_F) > 1:
        end = last + int(np.median(np.diff(pts_F)[-TYPICAL_GAPS:]))
    else:
        return declared
    return end if declared is None else min(end, declared)


def _are_exact(pts_F: Numbers, ends_F: Numbers) -> bool:
    """Whether packets say themselves how long they are shown; demuxers make up one duration for all where none do."""
    durations_F = ends_F - pts_F
    if durations_F[-1] <= 0:
        return False
    if np.ptp(durations_F) > 1:  # Matroska by FFmpeg 7 gives some pairs of fields the duration of one
        gaps_of_same = np.diff(pts_F)[durations_F[:-1] == durations_F[-1]]
        halved = gaps_of_same >= 2 * durations_F[-1] - 1
        return not len(halved) or bool(halved.mean() < EXACT_SHARE)
    equal: Flags = np.abs(durations_F[:-1] - np.diff(pts_F)) <= 1
    return not len(equal) or bool(equal.mean() >= EXACT_SHARE)
