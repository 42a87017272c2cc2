"""Inside the decoder process: the list of all frames of a stream, from its packets, without decoding one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from videoxl.errors import VideoError
from videoxl.video.decoder.demux import OpenVideo
from videoxl.video.info import VideoLimits

NO_TIME = -(2**63)
SAME_TIME_SHARE = 0.1
"""Above this share of frames with another frame's time the times are not believed."""
DEFAULT_FPS = 25.0

Beat = Callable[[], None]
"""Called often during long work: says that the process is alive, and raises when the work is no longer wanted."""


@dataclass(frozen=True)
class FrameIndex:
    """All frames a stream can show, in presentation order, and where decoding can start."""

    times_F: np.ndarray
    """float64 [F], seconds from the first frame."""
    pts_F: np.ndarray
    """int64 [F], presentation times in the stream's unit, to recognise decoded frames by."""
    by_order: bool
    """Times cannot tell frames apart: frame i is the i-th one that comes out of the decoder."""
    key_pts_K: np.ndarray
    """int64 [K], presentation times of the key frames, in decoding order."""
    key_dts_K: np.ndarray
    """int64 [K], decoding times of the key frames (:data:`NO_TIME` if unknown)."""
    key_positions_K: np.ndarray
    """int64 [K], how many packets come before each key frame."""
    packets: int
    """Packets in the stream, shown or not."""
    problems: tuple[str, ...]
    """What is unusual, without frames being lost."""
    losses: tuple[str, ...]
    """Why frames are missing."""

    def key_before(self, number: int) -> int | None:
        """The last key frame from which frame ``number`` can be reached; None without any."""
        found = np.flatnonzero(self.key_pts_K <= self.pts_F[number])
        return int(found[-1]) if len(found) else None


@dataclass
class _Packets:
    """Raw columns of the scan, in decoding order."""

    pts: np.ndarray
    dts: np.ndarray
    key: np.ndarray
    shown: np.ndarray
    failed: bool


def build_index(video: OpenVideo, limits: VideoLimits, beat: Beat) -> FrameIndex:
    """Walk over all packets of the stream. Raises ``VideoError`` when there are none, or more than allowed."""
    packets = _scan(video, limits, beat)
    unit = video.stream.time_base or Fraction(1, 90_000)
    keys = np.flatnonzero(packets.key & (packets.pts != NO_TIME))
    losses = ["reading stopped before the end of the file"] if packets.failed else []
    leading = _leading(packets, keys)
    if leading.any():
        losses.append(f"the first {int(leading.sum())} frames need a key frame that is not in the file")
    shown = packets.shown & ~leading
    pts = packets.pts[shown]
    if not len(pts):
        raise VideoError("holds no frames that can be decoded (0 frames); get the file again", code="undecodable")
    trusted = _times_are_usable(pts, packets.dts, round(1 / unit))
    problems = []
    if trusted:
        pts = np.sort(pts)
        times = (pts - pts[0]) * float(unit)
    else:
        times = np.arange(len(pts), dtype=np.float64) / _rate(video.stream)
        problems.append("its timestamps are missing or contradictory; timestamps are synthetic (frame number / rate)")
    return FrameIndex(
        times_F=times,
        pts_F=pts,
        by_order=not trusted or bool((np.diff(pts) == 0).any()) or _in_decoding_order(video, packets),
        key_pts_K=packets.pts[keys],
        key_dts_K=packets.dts[keys],
        key_positions_K=keys,
        packets=len(packets.pts),
        problems=tuple(problems),
        losses=tuple(losses),
    )


def _scan(video: OpenVideo, limits: VideoLimits, beat: Beat) -> _Packets:
    pts, dts, key, shown = array("q"), array("q"), bytearray(), bytearray()
    is_vp8 = video.stream.codec_context.codec.name in ("vp8", "libvpx")
    failed = False
    packets = real_packets(video.container, video.stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, IndexError):  # IndexError: the stream list changed under the demuxer
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
        beat()
    return _Packets(
        pts=np.array(pts, np.int64),
        dts=np.array(dts, np.int64),
        key=np.frombuffer(bytes(key), np.bool_),
        shown=np.frombuffer(bytes(shown), np.bool_),
        failed=failed,
    )


def real_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets of a stream without the empty one PyAV adds to say the stream is over."""
    return (packet for packet in container.demux(stream) if packet.size)


def _is_hidden_vp8(packet: Packet[VideoStream]) -> bool:
    """VP8 may store reference pictures that are never shown: bit 4 of the first byte tells."""
    return not bytes(memoryview(packet)[:1])[0] >> 4 & 1


def _leading(packets: _Packets, keys: np.ndarray) -> np.ndarray:
    """Shown packets that cannot be decoded because the key frame they build on is not in the file."""
    leading = np.zeros(len(packets.pts), np.bool_)
    if len(keys):
        leading[: keys[0]] = packets.shown[: keys[0]]
        leading |= packets.shown & (packets.pts < packets.pts[keys[0]]) & (packets.pts != NO_TIME)
    return leading


def _times_are_usable(pts: np.ndarray, dts: np.ndarray, second: int) -> bool:
    if (pts == NO_TIME).any():
        return False
    if len(pts) - len(np.unique(pts)) > SAME_TIME_SHARE * (len(pts) - 1):
        return False
    known = dts[dts != NO_TIME]
    return not (np.diff(known) < -second).any()  # decoding times run forward, unless a clock was reset on the way


def _in_decoding_order(video: OpenVideo, packets: _Packets) -> bool:
    """AVI has no presentation times: what is given for a codec that reorders pictures belongs to other pictures."""
    if video.container.format.name != "avi" or not video.stream.codec_context.has_b_frames:
        return False
    return len(np.unique(packets.pts - packets.dts)) == 1


def _rate(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate and 0 < rate <= 1000 else DEFAULT_FPS
