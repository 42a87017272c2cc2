"""Inside the decoder process: exactly the frames asked for, decoding as little as possible.

A frame is recognised by its presentation time, never by counting after a seek. Between wanted frames the decoder
jumps to key frames when that saves work and otherwise skips pictures no other picture needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence

import av
import av.error
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videoxl.errors import VideoError
from videoxl.video.decoder.demux import Opener, OpenVideo
from videoxl.video.decoder.index import NO_TIME, Beat, FrameIndex, real_packets

SEEK_PAYS = 8  # packets to be skipped; a seek costs about as much as decoding a few pictures


class FrameDecoder:
    """Decodes chosen frames of one stream. ``bad_packets`` and ``missing`` tell what went wrong on the way."""

    def __init__(self, opener: Opener, index: FrameIndex, beat: Beat) -> None:
        self._opener = opener
        self._index = index
        self._beat = beat
        self.bad_packets = 0
        self.missing: list[int] = []

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (number, frame) for the ascending, distinct frame ``numbers``, in order, leaving out missing ones."""
        self.bad_packets = 0
        self.missing = []
        if self._index.by_order:
            yield from self._by_order(numbers)
        else:
            yield from self._by_time(numbers)

    def _by_order(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        wanted = deque(numbers)
        walk = _Walk(self._opener, self._index, self._beat)
        count = 0
        while wanted and (frames := walk.step()) is not None:
            for frame in frames:
                if wanted and count == wanted[0]:
                    yield wanted.popleft(), frame
                count += 1
        self.bad_packets += walk.bad_packets
        self.missing.extend(wanted)

    def _by_time(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        wanted = deque(numbers)
        pts = self._index.pts_F
        rescue_budget = self._index.packets + 1000
        walk = _Walk(self._opener, self._index, self._beat, wanted=frozenset(pts[list(numbers)].tolist()))
        walk.approach(wanted[0])
        while wanted and (frames := walk.step()) is not None:
            before = len(wanted)
            for frame in frames:
                while wanted and frame.pts is not None and pts[wanted[0]] < frame.pts:
                    rescue_budget -= yield from self._rescue(wanted.popleft(), rescue_budget)
                if wanted and frame.pts == pts[wanted[0]]:
                    yield wanted.popleft(), frame
            if wanted and len(wanted) < before:
                walk.approach(wanted[0])
        for number in wanted:
            rescue_budget -= yield from self._rescue(number, rescue_budget)
        self.bad_packets += walk.bad_packets

    def _rescue(self, number: int, budget: int) -> Generator[tuple[int, VideoFrame], None, int]:
        """Look for a frame that did not come, from earlier key frames on and skipping nothing.

        Returns the packets this cost. Stops early when packets are damaged: then another start does not help.
        """
        spent = 0
        for keys_back in (2, None):
            if spent >= budget:
                break
            try:
                walk = _Walk(self._opener, self._index, self._beat)
                if keys_back is not None:
                    walk.approach(number, keys_back=keys_back)
            except VideoError:  # it could be opened before: the file has changed, which the caller is told
                spent = budget
                break
            start = walk.fed
            frame = self._hunt(walk, int(self._index.pts_F[number]), budget - spent)
            spent += walk.fed - start
            if frame is not None:
                yield number, frame
                return spent
            if walk.bad_packets:
                break
        self.missing.append(number)
        return spent

    def _hunt(self, walk: _Walk, pts: int, budget: int) -> VideoFrame | None:
        limit = walk.fed + budget
        while walk.fed < limit and (frames := walk.step()) is not None:
            for frame in frames:
                if frame.pts == pts:
                    return frame
                if frame.pts is not None and frame.pts > pts:
                    return None
        return None


class _Walk:
    """One decoder moving forward through a stream, packet by packet, with jumps to key frames."""

    def __init__(self, opener: Opener, index: FrameIndex, beat: Beat, wanted: frozenset[int] | None = None) -> None:
        self._opener = opener
        self._beat = beat
        self._index = index
        self._wanted = wanted
        self._seekable = True
        self.fed = 0
        self.bad_packets = 0
        self._restart()

    def _restart(self) -> None:
        self._video: OpenVideo = self._opener()
        self._packets = real_packets(self._video.container, self._video.stream)
        self._waiting: Packet[VideoStream] | None = None
        self._position = 0  # in decoding order, of the packet that comes next
        self._finished = False

    def step(self) -> list[VideoFrame] | None:
        """Decode one packet and return the frames that came out, in presentation order; None at the end."""
        if self._finished:
            return None
        self._beat()
        packet = self._next_packet()
        context = self._video.stream.codec_context
        if packet is not None:
            self._position += 1
            self.fed += 1
            needed = self._wanted is None or packet.pts is None or packet.pts in self._wanted
            context.skip_frame = "DEFAULT" if needed else "NONREF"
        try:
            return packet.decode() if packet is not None else context.decode(None)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            self.bad_packets += 1
            return []

    def _next_packet(self) -> Packet[VideoStream] | None:
        """The next packet; None, once, when there are no more and the decoder must give up what it holds."""
        packet, self._waiting = self._waiting, None
        if packet is None:
            try:
                packet = next(self._packets, None)
            except (av.error.FFmpegError, IndexError):  # damage the index has already reported
                packet = None
        self._finished = packet is None
        return packet

    def approach(self, number: int, keys_back: int = 0) -> None:
        """Jump to the key frame that frame ``number`` needs, if it lies far enough ahead and the container can."""
        key = self._index.key_before(number)
        if key is None or not self._seekable:
            return
        key = max(0, key - keys_back)
        if int(self._index.key_positions_K[key]) > self._position + SEEK_PAYS:
            self._jump(key)

    def _jump(self, key: int) -> None:
        """Some containers land behind the key frame when asked by its presentation time, some before its decoding
        time; so what was landed on is checked, and earlier targets are tried."""
        for back in (0, 1, 2, 4, 8):
            start = max(0, key - back)
            for offset in (self._index.key_pts_K[start], self._index.key_dts_K[start]):
                if offset != NO_TIME and self._land(int(offset), key):
                    return
        self._seekable = False
        self._restart()

    def _land(self, offset: int, key: int) -> bool:
        """Seek and read on to key frame ``key``; False when the seek failed or ended behind it."""
        pts, dts = int(self._index.key_pts_K[key]), int(self._index.key_dts_K[key])
        try:
            self._video.container.seek(offset, stream=self._video.stream)
            self._packets = real_packets(self._video.container, self._video.stream)
            for packet in self._packets:
                self._beat()
                if packet.pts == pts and packet.is_keyframe:
                    self._waiting, self._position = packet, int(self._index.key_positions_K[key])
                    return True
                if dts != NO_TIME and packet.dts is not None and packet.dts > dts:
                    return False
        except av.error.FFmpegError:
            return False
        return False
