"""Inside the decoder process: pictures by PyAV, which brings its own FFmpeg."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame

from videoxl.video.decoder.decode import FrameDecoder
from videoxl.video.decoder.demux import Opener
from videoxl.video.decoder.index import FrameIndex
from videoxl.video.decoder.interlaced import deinterlaced
from videoxl.video.decoder.packets import Heartbeat
from videoxl.video.decoder.rgb import RgbConverter
from videoxl.video.frames import Pixels

# Signs of the display matrix's a, b, c, d (where the stored picture's unit vectors lie on the screen)
# -> (mirror the columns first, then quarter turns counter-clockwise).
_ORIENTATIONS = {
    (1, 0, 0, 1): (False, 0),
    (0, -1, 1, 0): (False, 1),
    (-1, 0, 0, -1): (False, 2),
    (0, 1, -1, 0): (False, 3),
    (-1, 0, 0, 1): (True, 0),
    (0, -1, -1, 0): (True, 3),
    (1, 0, 0, -1): (True, 2),
    (0, 1, 1, 0): (True, 1),
}


@dataclass(frozen=True)
class Orientation:
    """How stored pictures must be turned to stand upright."""

    mirrored: bool = False
    quarter_turns: int = 0
    """Counter-clockwise, after mirroring."""
    problem: str | None = None

    def apply(self, pixels_HWC: Pixels) -> Pixels:
        """Turn one picture."""
        if self.mirrored:
            pixels_HWC = pixels_HWC[:, ::-1]
        return np.ascontiguousarray(np.rot90(pixels_HWC, self.quarter_turns))


def orientation_of(frame: VideoFrame) -> Orientation:
    """Read the display matrix that a phone writes. Only quarter turns and mirroring are applied.

    Call this for one frame of a video, not for each: reading side data puts a frame into a reference cycle, and
    frames that wait for the garbage collector fill the memory.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):  # None
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5].astype(np.float64)
    largest = max(abs(a), abs(b), abs(c), abs(d)) or 1.0
    signs = tuple(0 if abs(v) < 0.01 * largest else int(np.sign(v)) for v in (a, b, c, d))
    if signs not in _ORIENTATIONS:
        return Orientation(problem="asks for a rotation that is not a multiple of 90 degrees; pictures are not turned")
    return Orientation(*_ORIENTATIONS[signs])


class PyAVBackend:
    """Decodes frames and converts them to RGB. ``to_rgb`` may be called from several threads."""

    def __init__(
        self,
        opener: Opener,
        index: FrameIndex,
        heartbeat: Heartbeat,
        orientation: Orientation,
        hdr_transfer: int | None = None,
    ) -> None:
        """``hdr_transfer``: see :class:`RgbConverter`."""
        self._orientation = orientation
        self._hdr_transfer = hdr_transfer
        self._decoder = FrameDecoder(opener, index, heartbeat)
        self._local = threading.local()
        self.damaged = 0

    @property
    def bad_packets(self) -> int:
        """Number of packets that the decoder refused during the last ``frames``."""
        return self._decoder.bad_packets

    @property
    def missing(self) -> list[int]:
        """Numbers of the frames that could not be decoded during the last ``frames``."""
        return self._decoder.missing

    def begin(self, segments: int) -> None:
        """Begin a reading of so many segments."""
        self._decoder.begin(segments)

    def can_begin_at(self, number: int) -> bool:
        """Whether decoding can begin in the middle, for frame ``number``."""
        return self._decoder.can_begin_at(number)

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (number, frame) for ascending, distinct ``numbers``."""
        self.damaged = 0
        for number, frame in self._decoder.frames(numbers):
            self.damaged += bool(frame.is_corrupt)
            yield number, frame

    def to_rgb(self, frame: VideoFrame) -> Pixels:
        """uint8 [H, W, 3], upright. Every thread has a converter of its own."""
        if not hasattr(self._local, "converter"):
            self._local.converter = RgbConverter(self._hdr_transfer)
        convert = self._local.converter.convert
        pixels_HWC = convert(frame)
        if frame.interlaced_frame:
            pixels_HWC = deinterlaced(frame, pixels_HWC, convert)
        return self._orientation.apply(pixels_HWC)
