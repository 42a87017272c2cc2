"""Inside the decoder process: does the decoder give the frames that the packets promise?

Some packets hold several pictures, or none that is shown, in ways that only a decoder knows. A first stretch is
decoded. Where it gives other frames than the index has, the whole stream is decoded once, and its pictures are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import av.error
import numpy as np

from videoxl.video.decoder.demux import OpenedStream, Opener
from videoxl.video.decoder.index import FrameIndex, index_of, with_synthetic_times
from videoxl.video.decoder.packets import Heartbeat, read_packets, real_packets
from videoxl.video.info import VideoLimits

TRIED_PACKETS = 8


@dataclass(frozen=True)
class _Decoded:
    """What came out of the decoder."""

    pts: tuple[int | None, ...]
    """Presentation times, in the order in which the frames came."""
    damaged: bool
    """Whether packets were refused or frames are damaged."""

    def belongs_to(self, index: FrameIndex, packets: int) -> bool:
        """Whether these are the frames of an index that begin in the first ``packets``."""
        expected = index.pts_F[index.positions_F < packets]
        if index.by_order:
            return len(self.pts) == len(expected)
        return self.pts == tuple(sorted(expected.tolist()))

    def have_times_of(self, index: FrameIndex) -> bool:
        """Whether these are the frames of an index in any order."""
        return None not in self.pts and sorted(self.pts) == index.pts_F.tolist()  # type: ignore[type-var]


def confirm_index(opener: Opener, index: FrameIndex, limits: VideoLimits, heartbeat: Heartbeat) -> FrameIndex:
    """The index, or a better one that was made by decoding. Damaged streams are left as they are."""
    opened = opener()
    if index.losses or opened.stream.codec_context.codec.intra_only:
        return index
    if not index.may_hide:
        end = _end_of_stretch(index)
        tried = _decode(opened, heartbeat, end)
        if tried.damaged or tried.belongs_to(index, end):
            return index
    decoded = _decode(opener(), heartbeat, index.packets)
    if decoded.damaged or not decoded.pts or decoded.belongs_to(index, index.packets):
        return index
    if decoded.have_times_of(index):
        return _in_order_of_decoding(index, opened)
    return _index_of_frames(opener(), index, decoded, limits, heartbeat)


def _end_of_stretch(index: FrameIndex) -> int:
    """A number of packets behind which a picture begins."""
    later = index.positions_F[index.positions_F >= TRIED_PACKETS]
    return int(later.min()) if len(later) else index.packets


def _decode(opened: OpenedStream, heartbeat: Heartbeat, packets: int) -> _Decoded:
    """Decode so many packets, and what the decoder still holds then."""
    context = opened.stream.codec_context
    context.options = {**context.options, "skip_loop_filter": "all"}  # only times count here
    pts: list[int | None] = []
    damaged = False
    source = real_packets(opened.container, opened.stream)
    for number in range(packets + 1):
        heartbeat()
        try:
            packet = next(source, None) if number < packets else None
            frames = context.decode(packet)
        except (av.error.FFmpegError, IndexError):
            damaged = True
            continue
        pts += [frame.pts for frame in frames]
        damaged = damaged or any(frame.is_corrupt for frame in frames)
        if packet is None:
            break
    return _Decoded(tuple(pts), damaged)


def _in_order_of_decoding(index: FrameIndex, opened: OpenedStream) -> FrameIndex:
    """The index of frames whose times do not ascend. An AVI numbers its pictures, and has no other times."""
    index = replace(index, one_packet_each=False)
    if opened.container.format.name == "avi":
        return replace(index, by_order=True)
    return with_synthetic_times(index, opened)


def _index_of_frames(
    opened: OpenedStream, index: FrameIndex, decoded: _Decoded, limits: VideoLimits, heartbeat: Heartbeat
) -> FrameIndex:
    """The index of the frames that came out of the decoder."""
    packets = read_packets(opened, limits, heartbeat)
    known = [time for time in decoded.pts if time is not None]
    first = np.zeros(len(packets.pts), np.bool_)  # of the packets with the same time
    first[np.unique(packets.pts, return_index=True)[1]] = True
    shown = first & np.isin(packets.pts, np.array(known, np.int64))
    if shown.any():
        found = index_of(replace(packets, shown=shown, second_field=np.zeros_like(shown)), opened)
        if decoded.belongs_to(found, found.packets):
            return replace(found, one_packet_each=False)
        if decoded.have_times_of(found):
            return _in_order_of_decoding(found, opened)
    count = len(decoded.pts)
    blank = np.arange(count)
    return with_synthetic_times(replace(index, pts_F=blank, positions_F=blank, one_packet_each=False), opened)
