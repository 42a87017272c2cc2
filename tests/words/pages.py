"""Draws films with text: DejaVu Sans, which comes with matplotlib."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests import media
from tests.conftest import require

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
SIZE = (320, 180)
FPS = 4


def require_ocr() -> None:
    """Skip where RapidOCR cannot be installed; fail where it could."""
    if sys.version_info >= (3, 13):
        pytest.skip("rapidocr-onnxruntime has no package for Python 3.13")
    require("rapidocr_onnxruntime")


def page(
    texts: Sequence[tuple[int, int, str]], *, size: int = 18, ground: str | Image.Image = "white", fill: str = "black"
) -> np.ndarray:
    """A picture with texts at places (x, y)."""
    picture = ground.copy() if isinstance(ground, Image.Image) else Image.new("RGB", SIZE, ground)
    draw = ImageDraw.Draw(picture)
    for x, y, text in texts:
        draw.text((x, y), text, font=ImageFont.truetype(str(FONT), size), fill=fill)
    return np.asarray(picture)


def film(path: Path, shown: Iterable[tuple[np.ndarray, float]]) -> Path:
    """Pictures, each for so many seconds, as a film at four frames a second."""
    pictures = [picture for picture, seconds in shown for _ in range(round(seconds * FPS))]
    return media.write_video(path, pictures=pictures, fps=FPS, size=pictures[0].shape[1::-1])
