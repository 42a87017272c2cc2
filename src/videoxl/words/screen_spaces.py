"""Puts spaces where a line has gaps: the models, which were made for Chinese, leave many of them out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from videoxl.video.frames import Pixels

GAP = 0.27
"""Width of the gap between two words, as a share of the size of the font. The letters of a word, ``ll`` too, stand
closer."""
DOUBTFUL = 0.22
"""Where the model has written a space, a gap that is narrower is none: it parts doubled letters, as ``bal l``."""
BUSY = 0.85
"""Share of a place's height that its letters have at most."""
EMPTY = 0.35
"""A column holds no letter if its contrast is at most this share of that of letters."""


def with_spaces(text: str, places: npt.NDArray[np.float64], picture: Pixels) -> str:
    """``text`` with spaces where columns without a letter lie between two Latin letters or digits.

    ``places``: about where each letter of ``text`` is, in pixels from the left, in the picture [H, W, 3] of the line.
    """
    if len(places) != len(text):
        return text
    rows = luma_rows(picture)
    luma = picture.mean(2)[rows]
    upright = np.abs(luma.mean(0) - np.median(luma))  # the stroke of an l fills its column from top to bottom
    contrast = np.maximum(luma.max(0) - luma.min(0), upright)
    empty = contrast <= EMPTY * np.percentile(contrast, 90)
    em = _em(text, min(float(rows.stop - rows.start), BUSY * picture.shape[0]))
    letters = [number for number, letter in enumerate(text) if letter != " "]
    written = text[: letters[0] + 1] if letters else text
    for before, number in pairwise(letters):
        if _spaced(text[before]) and _spaced(text[number]):
            gap = _longest(empty[int(places[before]) : int(places[number]) + 1])
            written += " " if gap >= (GAP if number - before == 1 else DOUBTFUL) * em else ""
        else:
            written += text[before + 1 : number]
        written += text[number]
    return written


def _em(text: str, height: float) -> float:
    """Size of the font, in pixels, of letters that are together so high: those of ``text`` reach up or down, or not."""
    up = any(letter.isupper() or letter.isdigit() or letter in "bdfhijklt" for letter in text)
    down = any(letter in "gjpqyQ()[],;" for letter in text)
    return height / (0.53 + 0.22 * up + 0.22 * down)


def luma_rows(picture: Pixels) -> slice:
    """The rows in which the letters of a line are: all of it but what is empty, and what is seen of the next line."""
    luma = picture.mean(2)
    contrast = luma.max(1) - luma.min(1)
    inked = contrast > EMPTY * np.percentile(contrast, 90)
    edges = np.flatnonzero(np.diff(inked, prepend=False, append=False))
    begin, end = max(zip(edges[::2], edges[1::2]), key=lambda run: run[1] - run[0], default=(0, len(luma)))
    return slice(int(begin), int(end))


def _spaced(letter: str) -> bool:
    """Whether words with this letter have spaces between them."""
    return letter.isascii() and letter != " "


def _longest(empty: npt.NDArray[np.bool_]) -> int:
    """Length of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], empty, [False])).astype(np.int8)))
    return int(np.max(edges[1::2] - edges[::2], initial=0))
