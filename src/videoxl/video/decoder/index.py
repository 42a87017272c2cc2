"""Inside the decoder process: the list of all pictures of a stream, from its packets, without decoding one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from videoxl.errors import VideoError
from videoxl.video.decoder.clock import file_start, last_end, sound_start, stream_end, time_unit
from videoxl.video.decoder.demux import OpenedStream
from videoxl.video.decoder.packets import NO_TIME, Flags, Heartbeat, PacketTable, read_packets
from videoxl.video.frames import Numbers, Times
from videoxl.video.info import VideoLimits

SAME_TIME_SHARE = 0.1
"""When more than this share of frames have another frame's time, times are not trusted."""
DEFAULT_FPS = 25.0
"""Frames per second of a stream that does not say."""
WITHOUT_TIMES = ("h264", "hevc", "m4v", "mjpeg", "obu")
"""Formats of FFmpeg that hold no times: it makes them up."""
RATE_IN_PICTURES = ("h264", "hevc", "mpeg1video", "mpeg2video")
"""Codecs that name a rate themselves, which counts more than what FFmpeg guesses from a few times."""
LONG_WITHOUT_VIDEO = 60.0
"""When so many seconds of the file pass before its first picture, that is said: a sound's clock may be wrong."""


EDITS_NOT_APPLIED = (
    "its edit list holds pauses, held pictures or other speeds, which is not applied: all recorded pictures are read, "
    "at the times at which they were recorded"
)
TINY_BYTES = 20
"""An MPEG-4 packet smaller than this may say that nothing changes, or hold the place of a picture sent before."""


@dataclass(frozen=True)
class FrameIndex:
    """All frames that a stream can show, in presentation order, and where decoding can start.

    A frame is a whole picture, whether its two fields came in one packet or in two.
    """

    times_F: Times
    """float64 [F], seconds from the start of the file, which is that of its earliest stream."""
    end: float
    """Seconds when the last frame leaves the screen, on the same clock."""
    zero: float
    """Seconds of the container's own clock at which the file starts."""
    rate: float | None
    """Frames per second according to the header, or from which the times were made up."""
    pts_F: Numbers
    """int64 [F], presentation times in the stream's unit; decoded frames are recognised by them."""
    positions_F: Numbers
    """int64 [F], how many packets come before each frame's first one."""
    by_order: bool
    """Whether times cannot tell frames apart. Then frame i is the i-th one that comes out of the decoder."""
    one_packet_each: bool
    """Whether every frame has one packet, with its time. Otherwise no packet may be skipped."""
    may_hide: bool
    """Whether packets are so small that they may show no picture of their own."""
    key_pts_K: Numbers
    """int64 [K], presentation times of the key frames, in decoding order."""
    key_dts_K: Numbers
    """int64 [K], decoding times of the key frames (:data:`NO_TIME` if unknown)."""
    key_positions_K: Numbers
    """int64 [K], how many packets come before each key frame."""
    packets: int
    """Number of packets in the stream, shown or not."""
    problems: tuple[str, ...]
    """What is unusual, without frames being lost."""
    losses: tuple[str, ...]
    """Why frames are missing."""

    def key_before(self, number: int) -> int | None:
        """The last key frame from which frame ``number`` can be decoded; None without any."""
        earlier = self.key_positions_K <= self.positions_F[number]
        found = np.flatnonzero(earlier & (self.key_pts_K <= self.pts_F[number]))
        return int(found[-1]) if len(found) else None


def build_index(opened: OpenedStream, limits: VideoLimits, heartbeat: Heartbeat) -> FrameIndex:
    """Read all packets of the stream. Raises ``VideoError`` when there are none, or more than allowed."""
    return index_of(read_packets(opened, limits, heartbeat), opened)


def index_of(packets: PacketTable, opened: OpenedStream) -> FrameIndex:
    """The index of the pictures in these packets. Raises ``VideoError`` when there are none."""
    codec = opened.stream.codec_context.codec.canonical_name
    keys = np.flatnonzero(packets.key & ~packets.second_field & (packets.pts != NO_TIME))
    losses = ["reading stopped before the end of the file"] if packets.failed else []
    begins = packets.shown & ~packets.second_field
    undecodable = _before_first_key_frame(packets, begins, keys)
    if undecodable.any():
        losses.append(f"the first {int(undecodable.sum())} frames need a key frame that is not in the file")
    chosen = np.flatnonzero(begins & ~undecodable)
    if not len(chosen):
        raise VideoError("holds no frames that can be decoded (0 frames); get the file again", code="undecodable")
    index = FrameIndex(
        times_F=np.empty(0),
        end=0.0,
        zero=0.0,
        rate=_as_rate(opened.stream.average_rate),
        pts_F=packets.pts[chosen],
        positions_F=chosen,
        by_order=False,
        one_packet_each=not packets.second_field.any(),
        may_hide=codec == "mpeg4" and bool((packets.size < TINY_BYTES).any()),
        key_pts_K=packets.pts[keys],
        key_dts_K=packets.dts[keys],
        key_positions_K=keys,
        packets=len(packets.pts),
        problems=(EDITS_NOT_APPLIED,) if opened.edits and not opened.edits.is_plain else (),
        losses=tuple(losses),
    )
    if _holds_no_times(opened, packets) or not _times_are_usable(packets, chosen, opened):
        return with_synthetic_times(index, opened)
    known = packets.pts[begins & (packets.pts != NO_TIME)]
    return _with_times(index, packets, opened, int(known.min()))


def with_synthetic_times(index: FrameIndex, opened: OpenedStream) -> FrameIndex:
    """Number the frames in the order in which the decoder gives them, at the rate that the stream names."""
    stream = opened.stream
    in_pictures = stream.codec_context.codec.canonical_name in RATE_IN_PICTURES
    own = _as_rate(stream.codec_context.framerate) if in_pictures else None
    named = own or _as_rate(stream.guessed_rate) or _as_rate(stream.average_rate)
    rate = named or DEFAULT_FPS
    is_raw = opened.container.format.name in (*WITHOUT_TIMES, "mpegvideo")
    assumed = named is None or (is_raw and stream.codec_context.framerate is None)
    reason = "holds no timestamps" if is_raw else "its timestamps are missing or contradictory"
    origin = "assumed: the file names no rate" if assumed else "the file's own rate"
    problem = f"{reason}; timestamps are synthetic, at {rate:.6g} frames a second ({origin})"
    return replace(
        index,
        times_F=np.arange(len(index.pts_F), dtype=np.float64) / rate,
        end=len(index.pts_F) / rate,
        zero=sound_start(opened),
        rate=rate,
        by_order=True,
        problems=(*index.problems, problem),
    )


def _holds_no_times(opened: OpenedStream, packets: PacketTable) -> bool:
    """Whether times are made up. Raw MPEG-1 and MPEG-2 may say that fields are repeated, which FFmpeg counts."""
    name = opened.container.format.name
    return name in WITHOUT_TIMES or (name == "mpegvideo" and len(np.unique(packets.duration)) == 1)


def _with_times(index: FrameIndex, packets: PacketTable, opened: OpenedStream, first_pts: int) -> FrameIndex:
    """Sort the frames by their times. ``first_pts``: the first picture of the stream, whether it can be decoded."""
    order = np.argsort(index.pts_F, kind="stable")
    pts, positions, unit = index.pts_F[order], index.positions_F[order], time_unit(opened)
    zero = file_start(opened, first_pts)
    declared = stream_end(opened)
    end = last_end(
        pts,
        _ends(packets, positions),
        None if declared is None else math.floor(declared / unit),
        all_there=len(packets.pts) == opened.stream.frames,
    )
    times = (pts - pts[0]) * float(unit) + float(pts[0] * unit - zero)
    last = 1 / (index.rate or 1.0) if end is None else float((end - int(pts[-1])) * unit)
    shown_until = float(times[-1]) + last
    edits = opened.edits
    if edits is not None and edits.is_plain and declared is not None and shown_until >= float(declared - zero) - last:
        shown_until = max(shown_until, edits.end - float(zero))  # all is there: the last picture stays
    problems = index.problems
    if times[0] >= LONG_WITHOUT_VIDEO:
        problems += (f"its video begins {times[0]:.1f} s after its sound, from whose start times are counted",)
    return replace(
        index,
        problems=problems,
        times_F=times,
        end=shown_until,
        zero=float(zero),
        pts_F=pts,
        positions_F=positions,
        by_order=bool((np.diff(pts) == 0).any()) or _times_are_in_decoding_order(opened, packets),
    )


def _ends(packets: PacketTable, positions: Numbers) -> Numbers:
    """Until when the pictures that begin at these packets are shown: the durations of two fields are added."""
    ends = packets.pts[positions] + packets.duration[positions]
    following = np.minimum(positions + 1, len(packets.pts) - 1)
    second = packets.second_field[following] & (following > positions)
    ends[second] += packets.duration[following[second]]
    return ends


def _before_first_key_frame(packets: PacketTable, begins: Flags, keys: Numbers) -> Flags:
    """Which pictures cannot be decoded, since the key frame they need is not in the file."""
    found = np.zeros(len(packets.pts), np.bool_)
    if len(keys):
        found[: keys[0]] = begins[: keys[0]]
        found |= begins & (packets.pts < packets.pts[keys[0]]) & (packets.pts != NO_TIME)
    return found


def _times_are_usable(packets: PacketTable, chosen: Numbers, opened: OpenedStream) -> bool:
    """Judge the pictures that are shown; those that are not may have any times."""
    pts, dts = packets.pts[chosen], packets.dts[chosen]
    if (pts == NO_TIME).any():
        return False
    if len(pts) - len(np.unique(pts)) > SAME_TIME_SHARE * (len(pts) - 1):
        return False
    known, second = dts[dts != NO_TIME], round(1 / time_unit(opened))
    return not (np.diff(known) < -second).any()  # decoding times ascend, unless a clock was set back on the way


def _times_are_in_decoding_order(opened: OpenedStream, packets: PacketTable) -> bool:
    """Whether an AVI gives pictures that are reordered each other's times: it has no presentation times."""
    if opened.container.format.name != "avi" or not opened.stream.codec_context.has_b_frames:
        return False
    return len(np.unique(packets.pts - packets.dts)) == 1


def _as_rate(rate: Fraction | None) -> float | None:
    return float(rate) if rate is not None and 0 < rate <= 1000 else None
