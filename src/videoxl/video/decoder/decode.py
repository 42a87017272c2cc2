"""Inside the decoder process: exactly the frames asked for, decoding as little as possible.

A frame is recognised by its presentation time, never by counting after a seek. Between wanted frames the decoder
jumps to key frames when that saves work, and otherwise skips pictures that no other picture needs.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Generator, Iterator, Sequence

from av.video.frame import VideoFrame

from videoxl.errors import VideoError
from videoxl.video.decoder.cursor import PacketCursor
from videoxl.video.decoder.demux import Opener
from videoxl.video.decoder.index import FrameIndex
from videoxl.video.decoder.packets import Heartbeat

RETRY_PACKETS = 1000
"""Packets decoded again for missing frames of a segment: at most so many more than its share of the stream."""


class FrameDecoder:
    """Decodes chosen frames of one stream. ``bad_packets`` and ``missing`` tell what went wrong on the way."""

    def __init__(self, opener: Opener, index: FrameIndex, heartbeat: Heartbeat) -> None:
        self._opener = opener
        self._index = index
        self._heartbeat = heartbeat
        self.bad_packets = 0
        self.missing: list[int] = []
        self.begin(1)

    def begin(self, segments: int) -> None:
        """Begin a reading of so many segments. They share the packets that may be decoded again.

        With slice threads, damaged pictures differ from run to run. Only a reading that is not cut has them; others
        have several processes instead, and are the same however many.
        """
        self._threads = segments == 1
        self._cursor: PacketCursor | None = None
        self._budget = self._index.packets // segments + RETRY_PACKETS

    def can_begin_at(self, number: int) -> bool:
        """Whether decoding can begin in the middle, for frame ``number``."""
        return self._begin_at(number, frozenset()).seekable

    def _new_cursor(self) -> PacketCursor:
        gc.collect()  # a container and its streams hold each other, and with them the pictures of their decoder
        return PacketCursor(self._opener, self._index, self._heartbeat, threads=self._threads)

    def _begin_at(self, number: int, wanted: frozenset[int]) -> PacketCursor:
        """A cursor that has seen nothing: damaged pictures show parts of those before them.

        Where the container cannot seek, the last one goes on instead.
        """
        if self._cursor is None or self._cursor.seekable:
            self._cursor = None
            self._cursor = self._new_cursor()
        self._cursor.begin(number, wanted)
        return self._cursor

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (number, frame) for the ascending, distinct frame ``numbers``, in order, leaving out missing ones.

        Decoding begins at the key frame that the first one needs. Within a reading numbers ascend from call to call.
        """
        self.bad_packets = 0
        self.missing = []
        if self._index.by_order:
            yield from self._by_order(numbers)
        else:
            yield from self._by_time(numbers)

    def _by_order(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        wanted = deque(numbers)
        cursor = self._new_cursor()
        count = 0
        while wanted and (frames := cursor.step()) is not None:
            for frame in frames:
                if wanted and count == wanted[0]:
                    yield wanted.popleft(), frame
                count += 1
        self.bad_packets += cursor.bad_packets
        self.missing.extend(wanted)

    def _by_time(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        wanted = deque(numbers)
        pts = self._index.pts_F
        budget = self._budget
        cursor = self._begin_at(wanted[0], frozenset(pts[list(numbers)].tolist()))
        while wanted and (frames := cursor.step()) is not None:
            before = len(wanted)
            for frame in frames:
                while wanted and frame.pts is not None and pts[wanted[0]] < frame.pts:
                    budget -= yield from self._retry(wanted.popleft(), budget)
                if wanted and frame.pts == pts[wanted[0]]:
                    yield wanted.popleft(), frame
            if wanted and len(wanted) < before:
                cursor.approach(wanted[0])
        for number in wanted:
            budget -= yield from self._retry(number, budget)
        self.bad_packets += cursor.bad_packets

    def _retry(self, number: int, budget: int) -> Generator[tuple[int, VideoFrame], None, int]:
        """Decode a frame that did not come once more, from earlier key frames on and skipping nothing.

        Returns the number of packets this took. Stops early when packets are damaged: then an earlier start does not
        help.
        """
        spent = 0
        for keys_back in (2, None):
            if spent >= budget:
                break
            try:
                cursor = self._new_cursor()
                if keys_back is not None:
                    cursor.approach(number, keys_back=keys_back)
            except VideoError:  # it could be opened before, so the file has changed; the caller warns about that
                spent = budget
                break
            frame = self._search(cursor, int(self._index.pts_F[number]), budget - spent)
            spent += cursor.decoded_packets
            if frame is not None:
                yield number, frame
                return spent
            if cursor.bad_packets:
                break
        self.missing.append(number)
        return spent

    def _search(self, cursor: PacketCursor, pts: int, budget: int) -> VideoFrame | None:
        """The frame with this presentation time, if it comes within ``budget`` packets."""
        while cursor.decoded_packets < budget and (frames := cursor.step()) is not None:
            for frame in frames:
                if frame.pts == pts:
                    return frame
                if frame.pts is not None and frame.pts > pts:
                    return None
        return None
