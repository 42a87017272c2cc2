"""Inside the decoder process: one decoder that moves forward through a stream, with jumps to key frames."""

from __future__ import annotations

import av.error
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videoxl.video.decoder.demux import OpenedStream, Opener
from videoxl.video.decoder.index import FrameIndex
from videoxl.video.decoder.packets import NO_TIME, Heartbeat, real_packets

SEEK_PAYS = 8
"""A jump must skip more packets than this: it costs about as much as decoding so many pictures."""
EARLIER_KEY_FRAMES = (0, 1, 2, 4, 8)
"""How many key frames before the wanted one are tried as the target of a seek that went too far."""


class PacketCursor:
    """Decodes packet by packet, from the first one on.

    ``threads``: whether slices of a picture may be decoded in several threads.
    """

    def __init__(self, opener: Opener, index: FrameIndex, heartbeat: Heartbeat, *, threads: bool) -> None:
        self._threads = threads
        self._opener = opener
        self._heartbeat = heartbeat
        self._index = index
        self._wanted: frozenset[int] | None = None
        self.seekable = True
        """Whether the container can jump to key frames, as far as that was tried."""
        self.decoded_packets = 0
        self.bad_packets = 0
        self._restart()

    def _restart(self) -> None:
        self._opened: OpenedStream = self._opener()
        context = self._opened.stream.codec_context
        if not self._threads and context.codec.name != "libdav1d":  # whose threads always give the same pictures
            context.thread_count = 1
        self._packets = real_packets(self._opened.container, self._opened.stream)
        self._pending: Packet[VideoStream] | None = None
        self._position = 0  # of the next packet, in decoding order
        self._finished = False

    def begin(self, number: int, wanted: frozenset[int]) -> None:
        """Go to the key frame that frame ``number`` needs, where the container can seek.

        ``wanted``: presentation times; other frames may be skipped from now on.
        """
        self._wanted = wanted
        self.bad_packets = 0
        self.approach(number)

    def step(self) -> list[VideoFrame] | None:
        """Decode one packet and return the frames that came out, in presentation order; None at the end."""
        if self._finished:
            return None
        self._heartbeat()
        packet = self._next_packet()
        context = self._opened.stream.codec_context
        if packet is not None:
            self._position += 1
            self.decoded_packets += 1
            needed = self._wanted is None or packet.pts is None or packet.pts in self._wanted
            needed = needed or not self._index.one_packet_each
            context.skip_frame = "DEFAULT" if needed else "NONREF"
        try:
            return packet.decode() if packet is not None else context.decode(None)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            self.bad_packets += 1
            return []

    def _next_packet(self) -> Packet[VideoStream] | None:
        """The next packet; None, once, at the end: then the decoder gives out the frames that it still holds."""
        packet, self._pending = self._pending, None
        if packet is None:
            try:
                packet = next(self._packets, None)
            except (av.error.FFmpegError, IndexError):  # damage that the index has reported
                packet = None
        self._finished = packet is None
        return packet

    def approach(self, number: int, keys_back: int = 0) -> None:
        """Jump to the key frame that frame ``number`` needs, or ``keys_back`` before it, if it lies far enough ahead.

        Where the container cannot seek, the cursor stays, or starts again from the beginning.
        """
        key = self._index.key_before(number)
        if key is None or not self.seekable:
            return
        key = max(0, key - keys_back)
        if int(self._index.key_positions_K[key]) > self._position + SEEK_PAYS:
            self._jump(key)

    def _jump(self, key: int) -> None:
        """Seek to a key frame.

        Asked for its presentation time, some containers land behind it; asked for its decoding time, some land before
        it. So every landing is checked, and earlier targets are tried.
        """
        for back in EARLIER_KEY_FRAMES:
            start = max(0, key - back)
            for time in (self._index.key_pts_K[start], self._index.key_dts_K[start]):
                if time != NO_TIME and self._seek(int(time), key):
                    return
        self.seekable = False
        self._restart()

    def _seek(self, time: int, key: int) -> bool:
        """Seek, and read on to key frame ``key``. False when the seek failed or went behind it."""
        pts, dts = int(self._index.key_pts_K[key]), int(self._index.key_dts_K[key])
        try:
            self._opened.container.seek(time, stream=self._opened.stream)
            self._packets = real_packets(self._opened.container, self._opened.stream)
            for packet in self._packets:
                self._heartbeat()
                if packet.pts == pts and packet.is_keyframe:
                    self._pending, self._position = packet, int(self._index.key_positions_K[key])
                    return True
                if dts != NO_TIME and packet.dts is not None and packet.dts > dts:
                    return False
        except av.error.FFmpegError:
            return False
        return False
