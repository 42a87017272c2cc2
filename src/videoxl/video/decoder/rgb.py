"""Inside the decoder process: decoded pictures to RGB, the same bytes under every PyAV version.

A picture is stored as brightness and two colour differences. Two facts say what RGB it means: the matrix (BT.601,
BT.709, BT.2020 ...) and the range (limited 16..235, or full 0..255). PyAV 15 and 16 ignore both unless they are told,
so they are always told. A picture that names no matrix is read as BT.601, and one that names no range as limited:
FFmpeg's rule, whatever the size of the picture.
"""

from __future__ import annotations

from functools import lru_cache

import av
import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from videoxl.errors import VideoError
from videoxl.video.decoder.hdr import ToneMapper
from videoxl.video.frames import Pixels

RGB, RGB_16 = "rgb24", "rgb48le"
BT601 = 5  # in FFmpeg's list of matrices and in the scaler's, which otherwise differ
BT2020, BT2020_CONSTANT = 9, 10
SCALER_MATRIX = {1: 1, 4: 4, 5: BT601, 6: BT601, 7: 7, BT2020: BT2020, BT2020_CONSTANT: BT2020}
"""FFmpeg's number of a matrix (ITU-T H.273) -> the scaler's. Those not named here are read as BT.601."""
UNREADABLE = {
    8: "YCgCo",
    11: "SMPTE ST 2085",
    12: "a matrix derived from its primaries",
    13: "a matrix derived from its primaries",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
FIRST_TO_BLEND_CHROMA = 9
"""Version of libswscale (in PyAV 16) from which chroma lines are blended, not repeated, where there are fewer."""


class RgbConverter:
    """Converts pictures to RGB. Not for several threads at once. One a picture would hold on to memory."""

    def __init__(self, hdr_transfer: int | None = None) -> None:
        """``hdr_transfer``: number of the pictures' transfer if they are HDR, see :mod:`videoxl.video.decoder.hdr`."""
        self._to_rgb = VideoReformatter()
        self._to_more_chroma = VideoReformatter()
        self._tone_mapper = None if hdr_transfer is None else ToneMapper(hdr_transfer)

    def convert(self, frame: VideoFrame) -> Pixels:
        """uint8 [H, W, 3]. Raises ``VideoError`` ``undecodable`` for a matrix that FFmpeg cannot convert."""
        if self._tone_mapper is not None:
            return self._tone_mapper.apply(np.asarray(self._reformatted(frame, RGB_16).to_ndarray(), np.uint16))
        return np.asarray(self._reformatted(frame, RGB).to_ndarray(), np.uint8)

    def _reformatted(self, frame: VideoFrame, rgb: str) -> VideoFrame:
        if not _has_matrix(frame.format.name):
            return self._to_rgb.reformat(frame, format=rgb)
        matrix, full = _matrix(frame), _is_full_range(frame)
        if av.library_versions["libswscale"][0] < FIRST_TO_BLEND_CHROMA and _blends_chroma(frame):
            full = full and not frame.format.name.startswith("yuvj")  # those are brought to limited range here
            frame = self._to_more_chroma.reformat(frame, format="yuv422p14le", interpolation="AREA")
        return self._to_rgb.reformat(
            frame,
            format=rgb,
            src_colorspace=matrix,
            dst_colorspace=BT601,  # has no effect on RGB, but PyAV 15 looks at the source only if this is given
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            dst_color_range=ColorRange.UNSPECIFIED,
        )


@lru_cache
def _has_matrix(name: str) -> bool:
    """Whether pixels of this format are brightness and colour differences, rather than RGB, grey or a palette."""
    layout = VideoFormat(name)
    return len(layout.components) >= 3 and not layout.is_rgb and not name.startswith("xyz")


def _matrix(frame: VideoFrame) -> int:
    """The scaler's number of the picture's matrix."""
    if frame.colorspace in UNREADABLE:
        raise VideoError(
            f"stores colours as {UNREADABLE[frame.colorspace]}, which cannot be read; convert it to BT.709",
            code="undecodable",
        )
    if frame.colorspace == BT2020_CONSTANT:
        frame.colorspace = BT2020  # the nearest that FFmpeg has; PyAV 17 and 18 look here
    return SCALER_MATRIX.get(frame.colorspace, BT601)


def _is_full_range(frame: VideoFrame) -> bool:
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")


def _blends_chroma(frame: VideoFrame) -> bool:
    """Whether newer scalers blend this picture's chroma lines: they repeat them in a shortcut for 8 bits."""
    layout = frame.format
    if layout.chroma_height(frame.height) == frame.height:
        return False
    return layout.name not in ("yuv420p", "yuvj420p", "yuva420p") or bool(frame.height % 2)
