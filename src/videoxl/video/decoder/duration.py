"""Inside the decoder process: does a video end where its header says?"""

from __future__ import annotations

import av.error

from videoxl.video.decoder.clock import stream_end
from videoxl.video.decoder.demux import OpenedStream, Opener
from videoxl.video.decoder.index import FrameIndex
from videoxl.video.decoder.packets import Heartbeat

TOLERANCE_SECONDS = 1.0
TOLERANCE_SHARE = 0.02
"""A video may end this share of its declared duration too early, or :data:`TOLERANCE_SECONDS` if that is more."""
CLOCK_OF_THE_CONTAINER = ("mov", "matroska")
"""Formats whose header says when the file ends, not how long it lasts."""


def missing_end(opener: Opener, opened: OpenedStream, index: FrameIndex) -> str | None:
    """A sentence when frames end clearly before the declared end, else None.

    Compares times, not numbers of frames: edit lists, uneven rates and gaps make the numbers differ in intact files.
    """
    declared, of_stream = _declared_end(opened, index)
    if declared is None:
        return None
    rate = opened.stream.average_rate
    if rate and 1 / float(rate) > 2 * max(declared, 1.0):
        return (
            f"its clock is wrong ({1 / float(rate):.0f} s a frame in {declared:.1f} s of video), frames cannot be found"
        )
    tolerance = max(TOLERANCE_SECONDS, TOLERANCE_SHARE * declared)
    if index.end >= declared - tolerance:
        return None
    if not of_stream and _duration_of_all_streams(opener()) >= declared - tolerance:
        return None  # the declared end is that of a longer sound track, which is all there
    return f"readable up to {index.end:.1f} s of {declared:.1f} s"


def held_until(opener: Opener, opened: OpenedStream, index: FrameIndex, heartbeat: Heartbeat) -> float:
    """When the last picture leaves the screen: as players do, it is held while the sound goes on.

    Only where the container cannot say how long a picture is shown. The sound is measured, not believed.
    """
    container = opened.container
    name = container.format.name
    says = name.startswith("mov") or (name.startswith("matroska") and stream_end(opened) is not None)
    whole = container.duration / 1e6 if container.duration else None
    if says or index.by_order or index.losses or not container.streams.audio:
        return index.end
    if whole is not None and name.startswith("matroska"):
        whole -= max(index.zero, 0.0)
    if whole is not None and whole < index.end + TOLERANCE_SECONDS:
        return index.end
    sound = _end_of_sound(opener(), heartbeat) - index.zero
    believable = whole is None or sound <= whole + TOLERANCE_SECONDS
    return sound if believable and sound > index.end + TOLERANCE_SECONDS else index.end


def _end_of_sound(opened: OpenedStream, heartbeat: Heartbeat) -> float:
    """Seconds of the container's clock at which the last packet of any sound ends."""
    last = 0.0
    try:
        for packet in opened.container.demux(opened.container.streams.audio):
            heartbeat()
            if packet.pts is not None and packet.time_base:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except av.error.FFmpegError:  # what comes before the damage counts
        return last
    return last


def _declared_end(opened: OpenedStream, index: FrameIndex) -> tuple[float | None, bool]:
    """(seconds on the file's clock, whether that is the end of this stream rather than of the whole file)."""
    container = opened.container
    whole = container.duration / 1e6 if container.duration else None
    if whole and container.format.name.startswith(CLOCK_OF_THE_CONTAINER):
        whole -= max(index.zero, 0.0)
    own = stream_end(opened)
    if own is None:
        return whole, False
    end = float(own) - index.zero
    return (min(end, whole) if whole else end), True


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
