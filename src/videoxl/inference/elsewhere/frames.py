"""Which frames another model gets to see, and the pictures themselves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from videoxl.config import Sampling
from videoxl.inference.evidence_spans import EvidenceSpan
from videoxl.video import VideoSource

QUALITY = 85
LEAST_SIDE = 32
"""Frames are not made smaller than this many pixels."""


class Picture(NamedTuple):
    """A frame as JPEG."""

    time_s: float
    jpeg: bytes


def choose_frames(
    times_F: npt.NDArray[np.float64],
    covered: tuple[float, float],
    spans: Sequence[EvidenceSpan],
    *,
    frames: int,
    overview: int,
) -> list[int]:
    """Numbers of frames, ascending: ``overview`` spread evenly over ``covered``, the others over ``spans``.

    ``times_F``: seconds of all frames. ``covered``: first and last second that the memory covers. Where the spans have
    fewer frames than they may have, all of them are taken. At most ``frames`` numbers, each once.
    """
    within = np.flatnonzero((times_F >= covered[0]) & (times_F < covered[1]))
    if not len(within):
        return []
    times = times_F[within]
    looked_at = np.zeros(len(times), np.bool_)
    for span in spans:
        looked_at |= (times >= span.start) & (times < span.end)
    inside = within[looked_at]
    spread = _evenly(within, overview if len(inside) else frames)
    return sorted({*spread, *_evenly(inside, frames - len(spread))})


def _evenly(numbers: Sequence[int] | npt.NDArray[np.int64], count: int) -> list[int]:
    """At most ``count`` of ``numbers``: the middle ones of as many equal parts."""
    if len(numbers) <= count:
        return [int(number) for number in numbers]
    places = (np.arange(count) + 0.5) * len(numbers) / max(count, 1)
    return [int(numbers[int(place)]) for place in places]


def pictures_of(source: VideoSource, numbers: Sequence[int], max_side: int) -> list[Picture]:
    """The frames ``numbers`` as JPEG whose longer side is at most ``max_side`` pixels."""
    found: list[Picture] = []
    for batch in source.read(source.select(Sampling(indices=tuple(numbers))), resize=None, batch_frames=8):
        for pixels, time_s in zip(batch.pixels_FHWC, batch.timestamps_F.tolist()):
            found.append(Picture(time_s, _encoded(Image.fromarray(pixels), max_side)))
    return found


def shrunk(pictures: Sequence[Picture], most_bytes: int) -> tuple[list[Picture], int]:
    """The same frames, small enough to take ``most_bytes`` in all, and their longest side in pixels.

    Raises ``ValueError`` where even frames of 32 pixels would take more.
    """
    whole = [Image.open(io.BytesIO(picture.jpeg)) for picture in pictures]
    side, found = max(max(image.size) for image in whole), list(pictures)
    while (size := sum(len(picture.jpeg) for picture in found)) > most_bytes:
        if side <= LEAST_SIDE:
            raise ValueError(f"max_bytes={most_bytes} cannot hold {len(found)} frames: ask for fewer")
        side = max(LEAST_SIDE, int(side * min(0.9, (most_bytes / size) ** 0.5)))
        found = [Picture(picture.time_s, _encoded(image.copy(), side)) for picture, image in zip(pictures, whole)]
    return found, side


def _encoded(picture: Image.Image, max_side: int) -> bytes:
    picture.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
