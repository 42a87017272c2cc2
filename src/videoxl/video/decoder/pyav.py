"""Inside the decoder process: pictures by PyAV, which brings its own FFmpeg."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from videoxl.video.decoder.decode import FrameDecoder
from videoxl.video.decoder.demux import Opener
from videoxl.video.decoder.index import Beat, FrameIndex
from videoxl.video.decoder.rgb import RgbConverter

# How the unit vectors of the stored picture lie on the screen -> (mirror the columns first, quarter turns
# counter-clockwise, degrees reported). Signs of the display matrix's a, b, c, d.
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

    def apply(self, pixels_HWC: np.ndarray) -> np.ndarray:
        """Turn one picture."""
        if self.mirrored:
            pixels_HWC = pixels_HWC[:, ::-1]
        return np.ascontiguousarray(np.rot90(pixels_HWC, self.quarter_turns))


def orientation_of(frame: VideoFrame) -> Orientation:
    """From the display matrix a phone writes. Only quarter turns and mirroring are applied.

    Ask one frame of a video, not each: reading side data ties a frame into a reference cycle, and frames that wait
    for the garbage collector fill the memory.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5].astype(np.float64)
    largest = max(abs(a), abs(b), abs(c), abs(d)) or 1.0
    signs = tuple(0 if abs(v) < 0.01 * largest else int(np.sign(v)) for v in (a, b, c, d))
    if signs not in _ORIENTATIONS:
        return Orientation(problem="asks for a rotation that is no multiple of 90 degrees; pictures are left unrotated")
    return Orientation(*_ORIENTATIONS[signs])


class PyAVBackend:
    """Decoded frames and their conversion to RGB. ``to_rgb`` may be called from several threads."""

    def __init__(self, opener: Opener, index: FrameIndex, beat: Beat, orientation: Orientation) -> None:
        self._orientation = orientation
        self._decoder = FrameDecoder(opener, index, beat)
        self._local = threading.local()
        self.damaged = 0

    @property
    def bad_packets(self) -> int:
        """Packets the decoder refused during the last ``frames``."""
        return self._decoder.bad_packets

    @property
    def missing(self) -> list[int]:
        """Frame numbers that could not be decoded during the last ``frames``."""
        return self._decoder.missing

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (number, frame) for ascending, distinct ``numbers``."""
        self.damaged = 0
        for number, frame in self._decoder.frames(numbers):
            self.damaged += bool(frame.is_corrupt)
            yield number, frame

    def to_rgb(self, frame: VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3], upright. Every thread has a converter of its own."""
        if not hasattr(self._local, "converter"):
            self._local.converter = RgbConverter()
        return self._orientation.apply(self._local.converter.convert(frame))
