"""Inside the decoder process: pictures made of two fields, the lines of which were filmed one after the other.

Where something moved between the fields, its edges are combs. There, and only there, the lines of the second field
are replaced: by what lies between the lines of the first, which is the upper or the lower one. Progressive pictures in
a stream that is flagged as interlaced have no combs and stay as they are, bit for bit; so do still parts of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane

from videoxl.video.frames import Pixels

LEAST_DIFFERENCE = 10
"""Brightness, of 255, by which a line must differ from both its neighbours in a comb."""
CONTRAST = 3
"""So many times as much must it differ from them as lines of the same field differ from each other."""
BLOCK = 8
"""Combs are replaced in squares of so many pixels, and in those around them."""
PIXELS_IN_BLOCK = 6
"""A block with fewer pixels of a comb has none: that is noise."""


def deinterlaced(frame: VideoFrame, pixels_HWC: Pixels, to_rgb: Callable[[VideoFrame], Pixels]) -> Pixels:
    """A picture without combs. ``pixels_HWC`` is the whole of ``frame`` in RGB."""
    combed_HW = find_combs(pixels_HWC)
    if combed_HW is None:
        return pixels_HWC
    lower = int(lower_is_first(frame))
    lines_HWC = to_rgb(field_of(frame, lower))[: len(pixels_HWC[lower::2])].astype(np.uint16)
    filled = np.empty_like(pixels_HWC)
    filled[lower::2] = lines_HWC
    beside = np.concatenate([lines_HWC[:1], lines_HWC]) if lower else np.concatenate([lines_HWC, lines_HWC[-1:]])
    between = (beside[:-1] + beside[1:] + 1) // 2
    missing = filled[1 - lower :: 2]
    missing[: len(between)] = between[: len(missing)]
    missing[len(between) :] = lines_HWC[-1]  # a last line that only the lower field lacks
    return np.where(combed_HW[..., None], filled, pixels_HWC)


def find_combs(pixels_HWC: Pixels) -> npt.NDArray[np.bool_] | None:
    """Bool [H, W], where the picture shows combs and around that; None where it shows none."""
    height, width = pixels_HWC.shape[:2]
    grey = pixels_HWC[..., 1].astype(np.int16)
    above2, above, line, below, below2 = (grey[i : height - 4 + i] for i in range(5))
    same_field = np.maximum(np.abs(above - below), np.maximum(np.abs(above2 - line), np.abs(below2 - line)))
    to_above, to_below = above - line, below - line
    differs = np.minimum(np.abs(to_above), np.abs(to_below))
    combed = np.zeros(grey.shape, np.bool_)
    is_comb = (differs > LEAST_DIFFERENCE) & (differs > CONTRAST * same_field) & ((to_above > 0) == (to_below > 0))
    combed[2 : height - 2] = is_comb
    blocks = np.pad(combed, ((0, -height % BLOCK), (0, -width % BLOCK)))
    rows, columns = (size // BLOCK for size in blocks.shape)
    count = blocks.reshape(rows, BLOCK, columns, BLOCK).sum((1, 3))
    found = np.pad(count >= PIXELS_IN_BLOCK, 1)
    if not found.any():
        return None
    wide = found[:-2] | found[1:-1] | found[2:]
    wide = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
    return np.repeat(np.repeat(wide, BLOCK, 0), BLOCK, 1)[:height, :width]


def lower_is_first(frame: VideoFrame) -> bool:
    """Whether the lower field was filmed before the upper one, as in DV and some camcorders' files.

    PyAV does not show FFmpeg's flag, but the filter that separates fields obeys it.
    """
    if frame.height % 2:
        return False  # the filter takes no such pictures
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    separate, sink = graph.add("separatefields"), graph.add("buffersink")
    source.link_to(separate)
    separate.link_to(sink)
    graph.configure()
    source.push(frame)
    first = sink.pull()
    assert isinstance(first, VideoFrame)
    first_lines = _lines(first.planes[0])
    upper, lower = (_lines(frame.planes[0])[begin::2] for begin in (0, 1))
    width = min(first_lines.shape[1], upper.shape[1])
    agree = [float((first_lines[: len(half), :width] == half[:, :width]).mean()) for half in (upper, lower)]
    return agree[1] > agree[0]


def field_of(frame: VideoFrame, lower: int) -> VideoFrame:
    """The upper field (0), every second line of each plane beginning with the first, or the lower one (1)."""
    field = VideoFrame(frame.width, (frame.height + 1) // 2, frame.format.name)
    for whole, half in zip(frame.planes, field.planes):
        chosen = np.minimum(2 * np.arange(half.height) + lower, whole.height - 1)
        bytes_each = min(whole.line_size, half.line_size)
        copy = np.zeros((half.buffer_size // half.line_size, half.line_size), np.uint8)
        copy[: half.height, :bytes_each] = _lines(whole)[chosen, :bytes_each]
        half.update(copy.tobytes())
    field.colorspace, field.color_range = frame.colorspace, frame.color_range
    return field


def _lines(plane: VideoPlane) -> Pixels:
    """The lines of a plane as bytes, padding included."""
    return np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height]
