"""Inside the decoder process: the list of all frames of a stream, from its packets, without decoding one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from videoxl.errors import VideoError
from videoxl.video.decoder.demux import OpenedStream
from videoxl.video.frames import Numbers, Times
from videoxl.video.info import VideoLimits

NO_TIME = -(2**63)
"""Stands for a time that a packet does not have."""
SAME_TIME_SHARE = 0.1
"""When more than this share of frames have another frame's time, times are not trusted."""
DEFAULT_FPS = 25.0
"""Frames per second of a stream that does not say."""

Heartbeat = Callable[[], None]
"""Called often during long work: says that the process is alive, and raises when the work is no longer wanted."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FrameIndex:
    """All frames that a stream can show, in presentation order, and where decoding can start."""

    times_F: Times
    """float64 [F], seconds from the first frame."""
    pts_F: Numbers
    """int64 [F], presentation times in the stream's unit; decoded frames are recognised by them."""
    by_order: bool
    """Whether times cannot tell frames apart. Then frame i is the i-th one that comes out of the decoder."""
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
        found = np.flatnonzero(self.key_pts_K <= self.pts_F[number])
        return int(found[-1]) if len(found) else None


@dataclass
class PacketTable:
    """One row for each packet of a stream, in decoding order."""

    pts: Numbers
    dts: Numbers
    key: Flags
    shown: Flags
    failed: bool
    """Whether reading failed before the end of the file."""


def build_index(opened: OpenedStream, limits: VideoLimits, heartbeat: Heartbeat) -> FrameIndex:
    """Read all packets of the stream. Raises ``VideoError`` when there are none, or more than allowed."""
    packets = _read_packets(opened, limits, heartbeat)
    unit = opened.stream.time_base or Fraction(1, 90_000)
    keys = np.flatnonzero(packets.key & (packets.pts != NO_TIME))
    losses = ["reading stopped before the end of the file"] if packets.failed else []
    undecodable = _before_first_key_frame(packets, keys)
    if undecodable.any():
        losses.append(f"the first {int(undecodable.sum())} frames need a key frame that is not in the file")
    pts = packets.pts[packets.shown & ~undecodable]
    if not len(pts):
        raise VideoError("holds no frames that can be decoded (0 frames); get the file again", code="undecodable")
    trusted = _times_are_usable(pts, packets.dts, round(1 / unit))
    problems = []
    if trusted:
        pts = np.sort(pts)
        times = (pts - pts[0]) * float(unit)
    else:
        times = np.arange(len(pts), dtype=np.float64) / _rate(opened.stream)
        problems.append("its timestamps are missing or contradictory; timestamps are synthetic (frame number / rate)")
    return FrameIndex(
        times_F=times,
        pts_F=pts,
        by_order=not trusted or bool((np.diff(pts) == 0).any()) or _times_are_in_decoding_order(opened, packets),
        key_pts_K=packets.pts[keys],
        key_dts_K=packets.dts[keys],
        key_positions_K=keys,
        packets=len(packets.pts),
        problems=tuple(problems),
        losses=tuple(losses),
    )


def _read_packets(opened: OpenedStream, limits: VideoLimits, heartbeat: Heartbeat) -> PacketTable:
    pts, dts, key, shown = array("q"), array("q"), bytearray(), bytearray()
    is_vp8 = opened.stream.codec_context.codec.name in ("vp8", "libvpx")
    failed = False
    packets = real_packets(opened.container, opened.stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, IndexError):  # IndexError: the list of streams changed while reading
            failed = True
            break
        if packet is None:
            break
        pts.append(NO_TIME if packet.pts is None else packet.pts)
        dts.append(NO_TIME if packet.dts is None else packet.dts)
        key.append(packet.is_keyframe)
        shown.append(not packet.is_discard and not (is_vp8 and _is_hidden_vp8(packet)))
        if len(pts) > limits.max_frames_walked:
            raise VideoError(
                f"holds more than {limits.max_frames_walked} frames; raise VideoLimits(max_frames_walked=...)",
                code="limits_frames",
            )
        heartbeat()
    return PacketTable(
        pts=np.array(pts, np.int64),
        dts=np.array(dts, np.int64),
        key=np.frombuffer(bytes(key), np.bool_),
        shown=np.frombuffer(bytes(shown), np.bool_),
        failed=failed,
    )


def real_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets of a stream, without the empty one that PyAV adds at the end."""
    return (packet for packet in container.demux(stream) if packet.size)


def _is_hidden_vp8(packet: Packet[VideoStream]) -> bool:
    """Whether a VP8 packet is a reference picture that is never shown: bit 4 of its first byte is 0."""
    return not bytes(memoryview(packet)[:1])[0] >> 4 & 1


def _before_first_key_frame(packets: PacketTable, keys: Numbers) -> Flags:
    """Which shown packets cannot be decoded, since the key frame they need is not in the file."""
    found = np.zeros(len(packets.pts), np.bool_)
    if len(keys):
        found[: keys[0]] = packets.shown[: keys[0]]
        found |= packets.shown & (packets.pts < packets.pts[keys[0]]) & (packets.pts != NO_TIME)
    return found


def _times_are_usable(pts: Numbers, dts: Numbers, second: int) -> bool:
    if (pts == NO_TIME).any():
        return False
    if len(pts) - len(np.unique(pts)) > SAME_TIME_SHARE * (len(pts) - 1):
        return False
    known = dts[dts != NO_TIME]
    return not (np.diff(known) < -second).any()  # decoding times ascend, unless a clock was set back on the way


def _times_are_in_decoding_order(opened: OpenedStream, packets: PacketTable) -> bool:
    """Whether an AVI gives pictures that are reordered each other's times: it has no presentation times."""
    if opened.container.format.name != "avi" or not opened.stream.codec_context.has_b_frames:
        return False
    return len(np.unique(packets.pts - packets.dts)) == 1


def _rate(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate and 0 < rate <= 1000 else DEFAULT_FPS
