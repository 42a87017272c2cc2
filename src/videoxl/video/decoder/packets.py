"""Inside the decoder process: what the packets of a stream say, read without decoding one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from videoxl.errors import VideoError
from videoxl.video.decoder.demux import OpenedStream
from videoxl.video.decoder.fields import FieldPairs
from videoxl.video.frames import Numbers
from videoxl.video.info import VideoLimits

NO_TIME = -(2**63)
"""Stands for a time that a packet does not have."""

Heartbeat = Callable[[], None]
"""Called often during long work: says that the process is alive, and raises when the work is no longer wanted."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PacketTable:
    """One row for each packet of a stream, in decoding order. Times are in the stream's unit."""

    pts: Numbers
    dts: Numbers
    duration: Numbers
    """How long the packet says it is shown; 0 if it does not say."""
    size: Numbers
    """Bytes."""
    key: Flags
    shown: Flags
    """Whether a picture of the packet is shown. A second field is shown as part of the picture of the first."""
    second_field: Flags
    """Whether the packet completes the picture that the packet before it begins."""
    failed: bool
    """Whether reading failed before the end of the file."""


def read_packets(opened: OpenedStream, limits: VideoLimits, heartbeat: Heartbeat) -> PacketTable:
    """Read all packets of the stream. Raises ``VideoError`` when there are more than allowed."""
    pts, dts, duration, size = array("q"), array("q"), array("q"), array("q")
    key, shown, second = bytearray(), bytearray(), bytearray()
    codec = opened.stream.codec_context.codec.canonical_name
    pairs = FieldPairs(opened.stream.codec_context.extradata) if codec == "h264" else None
    is_hidden = {"vp8": _is_hidden_vp8, "vp9": _is_hidden_vp9}.get(codec)
    counts_frames = opened.container.format.name == "avi"  # what it calls a decoding time is the number of a frame
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
        time = packet.dts if packet.pts is None and counts_frames else packet.pts
        pts.append(NO_TIME if time is None else time)
        dts.append(NO_TIME if packet.dts is None else packet.dts)
        duration.append(packet.duration or 0)
        size.append(packet.size)
        key.append(packet.is_keyframe)
        shown.append(not packet.is_discard and not (is_hidden and is_hidden(packet)))
        second.append(pairs is not None and pairs.is_second_field(packet))
        if len(pts) > limits.max_frames_walked:
            raise VideoError(
                f"holds more than {limits.max_frames_walked} frames; raise VideoLimits(max_frames_walked=...)",
                code="limits_frames",
            )
        heartbeat()
    return PacketTable(
        pts=np.array(pts, np.int64),
        dts=np.array(dts, np.int64),
        duration=np.array(duration, np.int64),
        size=np.array(size, np.int64),
        key=np.frombuffer(bytes(key), np.bool_),
        shown=np.frombuffer(bytes(shown), np.bool_),
        second_field=np.frombuffer(bytes(second), np.bool_),
        failed=failed,
    )


def real_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets of a stream, without the empty one that PyAV adds at the end."""
    return (packet for packet in container.demux(stream) if packet.size)


def _is_hidden_vp8(packet: Packet[VideoStream]) -> bool:
    """Whether a VP8 packet is a reference picture that is never shown: bit 4 of its first byte is 0."""
    return not memoryview(packet)[0] >> 4 & 1


def _is_hidden_vp9(packet: Packet[VideoStream]) -> bool:
    """Whether no frame of a VP9 packet is shown. A packet may hold several: then an index of their sizes ends it."""
    data = memoryview(packet)
    return not any(_is_shown_vp9(data[begin]) for begin in _vp9_frames(data) if begin < len(data))


def _vp9_frames(data: memoryview) -> Iterator[int]:
    """Where the frames of a VP9 packet begin."""
    marker = data[-1]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = len(data) - 2 - count * width
    yield 0
    if marker & 0xE0 != 0xC0 or index < 0 or data[index] != marker:
        return
    begin = 0
    for number in range(count - 1):
        at = index + 1 + number * width
        begin += int.from_bytes(data[at : at + width], "little")
        yield begin


def _is_shown_vp9(first: int) -> bool:
    """Read the first byte of a frame: marker (2 bits), profile (2, and one more for profile 3), then flags."""
    flags = first << 1 if first & 0x30 == 0x30 else first
    return bool(flags & 0x08 or flags & 0x02)  # show_existing_frame, or show_frame behind the type of the frame
