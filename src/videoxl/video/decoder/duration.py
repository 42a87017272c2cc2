"""Inside the decoder process: does a video end where its header says?"""

from __future__ import annotations

import re

import av.error

from videoxl.video.decoder.demux import OpenedStream, Opener
from videoxl.video.decoder.index import FrameIndex

LONGEST_LAST_FRAME = 10.0
"""Seconds. A last frame is not taken to be shown longer, however low the rate."""
TOLERANCE_SECONDS = 1.0
TOLERANCE_SHARE = 0.02
"""A video may end this share of its declared duration too early, or :data:`TOLERANCE_SECONDS` if that is more."""


def missing_end(opener: Opener, opened: OpenedStream, index: FrameIndex) -> str | None:
    """A sentence when frames end clearly before the declared end, else None.

    Compares times, not numbers of frames: edit lists, uneven rates and gaps make the numbers differ in intact files.
    """
    declared, of_stream = _declared_duration(opened)
    if declared is None:
        return None
    rate = opened.stream.average_rate
    last_frame = min(1 / float(rate), LONGEST_LAST_FRAME) if rate else 0.0
    end = float(index.times_F[-1]) + last_frame
    if rate and 1 / float(rate) > 2 * max(declared, 1.0):
        return (
            f"its clock is wrong ({1 / float(rate):.0f} s a frame in {declared:.1f} s of video), frames cannot be found"
        )
    tolerance = max(TOLERANCE_SECONDS, TOLERANCE_SHARE * declared)
    if end >= declared - tolerance:
        return None
    if not of_stream and _duration_of_all_streams(opener()) >= declared - tolerance:
        return None  # the declared end is that of a longer sound track, which is all there
    return f"readable up to {end:.1f} s of {declared:.1f} s"


def _declared_duration(opened: OpenedStream) -> tuple[float | None, bool]:
    """(seconds, whether that is the duration of this stream rather than of the whole file)."""
    stream, container = opened.stream, opened.container
    whole = container.duration / 1e6 if container.duration else None
    own: float | None = None
    if stream.duration and stream.time_base:
        own = float(stream.duration * stream.time_base)
    elif tag := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska
        own = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    if own is None:
        return whole, False
    return (min(own, whole) if whole else own), True


def _duration_of_all_streams(opened: OpenedStream) -> float:
    """Seconds from the first to the last moment of any stream, as far as packets can be read."""
    first, last = float("inf"), 0.0
    try:
        for packet in opened.container.demux():
            if packet.pts is not None and packet.time_base:
                first = min(first, float(packet.pts * packet.time_base))
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except av.error.FFmpegError:  # what comes before the damage counts
        return last - first
    return last - first
