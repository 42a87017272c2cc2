"""Puts spaces where a line has gaps: the models, which were made for Chinese, leave many of them out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from videoxl.video.frames import Pixels

GAP = 0.23
"""Share of a line's height that is empty between two words. The letters of a word stand closer."""
EMPTY = 0.35
"""A column holds no letter if its contrast is at most this share of that of letters."""


def with_spaces(text: str, places: npt.NDArray[np.float64], picture: Pixels) -> str:
    """``text`` with spaces where columns without a letter lie between two Latin letters or digits.

    ``places``: about where each letter of ``text`` is, in pixels from the left, in the picture [H, W, 3] of the line.
    """
    if len(places) != len(text):
        return text
    luma = picture.mean(2)[luma_rows(picture.shape[0])]
    contrast = luma.max(0) - luma.min(0)
    empty = contrast <= EMPTY * np.percentile(contrast, 90)
    least = GAP * picture.shape[0]
    written = text[:1]
    for before, letter, left, right in zip(text, text[1:], places, places[1:]):
        if _spaced(before) and _spaced(letter) and _longest(empty[int(left) : int(right) + 1]) >= least:
            written += " "
        written += letter
    return written


def luma_rows(height: int) -> slice:
    """The rows in which letters are: not the upper and lower edge, where the next line may be seen."""
    return slice(height // 8, max(height // 8 + 1, height - height // 8))


def _spaced(letter: str) -> bool:
    """Whether words with this letter have spaces between them."""
    return letter.isascii() and letter != " "


def _longest(empty: npt.NDArray[np.bool_]) -> int:
    """Length of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], empty, [False])).astype(np.int8)))
    return int(np.max(edges[1::2] - edges[::2], initial=0))
