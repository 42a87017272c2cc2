"""Finds and reads text in a picture with RapidOCR: the models are in its wheel, and nothing is downloaded.

The library gets arrays, never files. Its classifier of direction is not used: it turns upright lines upside down. A
line that reads badly is read in its other directions too, and the reading that is surest is taken.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from videoxl.errors import MissingDependencyError
from videoxl.text import visible
from videoxl.video.frames import Pixels
from videoxl.video.host import usable_cores
from videoxl.words.screen_spaces import with_spaces
from videoxl.words.screen_text import mended

MODEL = "RapidOCR (PP-OCRv4)"
"""The models that read, for the source of a track."""
NEEDS_OCR = 'reading text on screen needs RapidOCR: pip install "videoxl[ocr]"'
MOST_THREADS = 4
"""More threads of onnxruntime hardly read faster, and take the cores of everything else."""
CLEAR = 0.8
"""A reading that is surer needs no second look."""
BETTER = 0.1
"""Another direction must be surer by this much."""
TALL = 1.5
"""A place so many times as high as wide holds vertical text, or a single letter."""
DETECTOR_STEP = 32
"""The sides of what the detector sees are multiples of this."""

Quad = npt.NDArray[np.float64]
"""Corners [4, 2] of a line of text as x, y: top left, top right, bottom right, bottom left."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True)
class Reading:
    """A line of text that was read in a picture."""

    box: Box
    text: str
    confidence: float
    vertical: bool = False

    @property
    def size(self) -> float:
        """Height of the letters, about, in pixels."""
        left, top, right, bottom = self.box
        return right - left if self.vertical else bottom - top


class TextReader:
    """The models of RapidOCR, loaded once. Raises ``MissingDependencyError`` where they cannot be."""

    def __init__(self) -> None:
        threads = min(MOST_THREADS, usable_cores())
        self._ocr = require_ocr()(
            intra_op_num_threads=threads,
            inter_op_num_threads=1,
            det_limit_side_len=DETECTOR_STEP,  # pictures come in the size in which they are to be seen
            max_side_len=1 << 16,
            min_height=0,
            width_height_ratio=-1,
        )

    def places(self, picture: Pixels, scale: float = 1.0) -> list[Quad]:
        """Where lines of text are in a picture [H, W, 3], which the detector sees enlarged ``scale`` times."""
        height, width = picture.shape[:2]
        seen = (_step(width * scale), _step(height * scale))
        enlarged = np.asarray(Image.fromarray(picture).resize(seen, Image.Resampling.BILINEAR))
        found, _ = self._ocr(_bgr(enlarged), use_det=True, use_cls=False, use_rec=False)
        corners = np.asarray(found or [], np.float64).reshape(-1, 4, 2)
        return list(corners * (width / seen[0], height / seen[1]))

    def read(self, picture: Pixels, place: Quad) -> Reading | None:
        """Read the line at a place; None where there is no letter."""
        line = _cut_out(picture, place)
        tall = line.height >= TALL * line.width
        best = ("", 0.0)
        vertical = False
        for turned in _directions(line, tall):
            text, confidence = self._recognise(turned)
            if confidence > best[1] + (BETTER if best[0] else 0.0):
                best, vertical = (text, confidence), tall and turned is not line
            if not tall and confidence >= CLEAR:
                break
        if not best[0]:
            return None
        (left, top), (right, bottom) = place.min(0).tolist(), place.max(0).tolist()
        return Reading((left, top, right, bottom), best[0], best[1], vertical)

    def _recognise(self, line: Image.Image) -> tuple[str, float]:
        picture = np.asarray(line)
        [(text, confidence, details)], _ = self._ocr.text_rec([_bgr(picture)], return_word_box=True)
        if not text.strip():
            return "", 0.0
        columns = np.array([column for word in details[2] for column in word], np.float64)
        places = (columns + 0.5) * line.width / max(details[0], 1)
        text = " ".join(visible(mended(with_spaces(text, places, picture)), lines=False).split())
        return text, float(confidence)


@lru_cache(maxsize=1)
def text_reader() -> TextReader:
    """The one reader of this process."""
    return TextReader()


def require_ocr() -> Any:
    """The library. Raises ``MissingDependencyError`` where it cannot be loaded."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ModuleNotFoundError as error:
        if error.name == "rapidocr_onnxruntime":
            too_new = " (it has no package for Python 3.13: use 3.11 or 3.12)" if sys.version_info >= (3, 13) else ""
            raise MissingDependencyError(NEEDS_OCR + too_new) from None
        raise MissingDependencyError(f"RapidOCR lacks a package ({error}): {NEEDS_OCR}") from None
    except (ImportError, OSError) as error:
        raise MissingDependencyError(_not_loaded(str(error))) from None
    return RapidOCR


def _not_loaded(what: str) -> str:
    """What to do where a package is there, and its libraries are not."""
    for library, package in (("libGL", "libgl1"), ("libgthread", "libglib2.0-0"), ("libglib", "libglib2.0-0")):
        if library in what:
            return (
                f"OpenCV, which RapidOCR uses, finds no {library} on this system ({what}): install the package "
                f"{package} (apt install {package}), or put opencv-python-headless in the place of opencv-python"
            )
    return f"RapidOCR is installed but cannot be loaded ({what}): {NEEDS_OCR}"


def _step(length: float) -> int:
    return max(1, round(length / DETECTOR_STEP)) * DETECTOR_STEP


def _bgr(picture: Pixels) -> Pixels:
    return np.ascontiguousarray(picture[:, :, ::-1])


def _cut_out(picture: Pixels, place: Quad) -> Image.Image:
    """The line at a place, straightened."""
    (left, top), (right, bottom) = place.min(0), place.max(0)
    box = (max(0, int(left)), max(0, int(top)), int(np.ceil(right)), int(np.ceil(bottom)))
    across = float(np.linalg.norm(place[1] - place[0]) + np.linalg.norm(place[2] - place[3])) / 2
    down = float(np.linalg.norm(place[3] - place[0]) + np.linalg.norm(place[2] - place[1])) / 2
    height, width = picture.shape[:2]
    box = (box[0], box[1], max(box[0] + 1, min(width, box[2])), max(box[1] + 1, min(height, box[3])))
    part = Image.fromarray(picture[box[1] : box[3], box[0] : box[2]])
    if bottom - top <= down + 0.25 * min(across, down) and right - left <= across + 0.25 * min(across, down):
        return part  # upright: no pixel is changed
    corners = (place[[0, 3, 2, 1]] - (box[0], box[1])).ravel().tolist()
    size = (max(1, round(across)), max(1, round(down)))
    return part.transform(size, Image.Transform.QUAD, corners, Image.Resampling.BICUBIC)


def _directions(line: Image.Image, tall: bool) -> Iterator[Image.Image]:
    """The line as it may be meant, the likeliest first."""
    if not tall:
        yield line
        yield line.transpose(Image.Transpose.ROTATE_180)
        return
    yield _side_by_side(line)
    yield line.transpose(Image.Transpose.ROTATE_90)
    yield line.transpose(Image.Transpose.ROTATE_270)
    yield line


def _side_by_side(column: Image.Image) -> Image.Image:
    """Letters that stand on top of one another, as a row: they are about as high as wide."""
    count = max(1, round(column.height / column.width))
    row = Image.new("RGB", (count * column.width, column.width))
    for number in range(count):
        top, bottom = (round(edge * column.height / count) for edge in (number, number + 1))
        cell = column.crop((0, top, column.width, bottom))
        row.paste(cell.resize((column.width, column.width)), (number * column.width, 0))
    return row
