"""Finds the cuts and fades of a film in frames that are decoded small.

A cut changes the picture from one frame to the next, much more than frames around it change, and for good. So three
things are none: a flash, after which the picture is what it was; a fade or a dissolve, which many frames share; a pan
or fast motion, where all frames differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from videoxl.config import Sampling
from videoxl.video import Resize, VideoSource, open_video
from videoxl.video.frames import Pixels
from videoxl.words.screen import MOST_FRAMES, Progress

FPS = 8.0
SEEN = Resize(36, 64)
"""Size of the pictures that are compared. Proportions do not matter."""
HUES, VALUES = 12, 8
"""Bins of the histograms. A pixel counts for the two bins it lies between, so that a slow change is one."""
GRID = (9, 16)
"""Rows and columns in which brightness is averaged."""
CHANGES = ((0.27, 3.0), (0.12, 8.0))
"""A cut changes a frame by the first number, from 0 to 1, and so many times as much as the frames around it: as their
median, and as the mean of the nearest four. A weaker cut must stand out more."""
STAYS = 0.6
"""Share of the change that all pictures shortly before a cut keep to all shortly after it."""
AROUND_S, FLASH_S = 1.0, 0.5
"""Seconds around a cut with which it is compared; within which a picture that comes back was hidden by a flash."""
DARK, BRIGHT = 0.06, 0.94
"""Mean brightness of a picture that has faded out, to black or white."""
BATCH_FRAMES = 64

Looks = npt.NDArray[np.float32]
"""What is compared of a picture: colours, then brightness by place."""
Numbers = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Cut:
    """Where one shot ends and the next begins."""

    time_s: float
    """Seconds of the first frame of the new shot."""
    strength: float
    """How different the two frames are, from 0 to 1."""


@dataclass(frozen=True)
class Shots:
    """What separates the shots of a film."""

    cuts: tuple[Cut, ...]
    fades: tuple[float, ...]
    """Seconds in the middle of each stretch that is black or white, between pictures that fade."""
    start_s: float
    end_s: float


def find_cuts(
    video: str | os.PathLike[str] | VideoSource,
    *,
    fps: float = FPS,
    start: float | None = None,
    end: float | None = None,
    progress: Progress | None = None,
) -> tuple[Cut, ...]:
    """Find the cuts of a video, exact to ``1 / fps`` seconds. Fades, dissolves, flashes and pans are none.

    Args:
        video: a path, or an opened video.
        fps: frames per second that are compared. A flash is known as one from 4 on.
        start, end: seconds of the video.
        progress: called with ``"cuts"`` and the frames done and in all.

    Raises ``ValueError`` for settings that are not allowed, and ``VideoError``.
    """
    return find_shots(video, fps=fps, start=start, end=end, progress=progress).cuts


def find_shots(
    video: str | os.PathLike[str] | VideoSource,
    *,
    fps: float = FPS,
    start: float | None = None,
    end: float | None = None,
    progress: Progress | None = None,
) -> Shots:
    """Find cuts and fades; see :func:`find_cuts`."""
    sampling = Sampling(fps=fps, max_frames=MOST_FRAMES, start=start, end=end)
    search = _Search(fps)
    with ExitStack() as stack:
        source = video if isinstance(video, VideoSource) else stack.enter_context(open_video(video))
        selection = source.select(sampling)
        for picture, seconds in _pictures(source, selection):
            search.see(picture, seconds)
            if progress is not None:
                progress("cuts", search.count, len(selection) or None)
        ends = [one for one in (source.info.end, end) if one is not None]
    return search.found(min(ends) if ends else None)


def _pictures(source: VideoSource, selection: object) -> Iterator[tuple[Pixels, float]]:
    for frames in source.read(selection, resize=SEEN, batch_frames=BATCH_FRAMES):  # type: ignore[arg-type]
        for picture, seconds in zip(frames.pixels_FHWC, frames.timestamps_F):
            yield picture, float(seconds)


class _Search:
    """Looks at frames as they come; it keeps those of about two seconds."""

    def __init__(self, fps: float) -> None:
        self._around = max(3, round(AROUND_S * fps))
        self._flash = max(1, round(FLASH_S * fps))
        self._looks: list[Looks] = []
        self._times: list[float] = []
        self._changes: list[float] = []
        self._offset = 0
        self._next = 1
        self._cuts: list[Cut] = []
        self._gone_since: float | None = None
        self._empty: list[tuple[float, float]] = []
        self._start = 0.0
        self.count = 0

    def see(self, picture: Pixels, seconds: float) -> None:
        """Take the next frame."""
        looks = looks_of(picture)
        if not self.count:
            self._start = seconds
        self._changes.append(difference(self._looks[-1], looks) if self._looks else 0.0)
        self._looks.append(looks)
        self._times.append(seconds)
        self.count += 1
        self._watch_fade(looks, seconds)
        while self._next + self._around < self._offset + len(self._looks):
            self._judge(self._next - self._offset)
            self._next += 1
        if len(self._looks) > 8 * self._around:
            self._forget(4 * self._around)

    def found(self, end: float | None) -> Shots:
        """All cuts and fades, when there are no more frames."""
        for place in range(self._next - self._offset, len(self._looks)):
            self._judge(place)
        last = self._times[-1] if self._times else 0.0
        return Shots(tuple(self._cuts), tuple(self._fades()), self._start, max(last, end or last))

    def _forget(self, count: int) -> None:
        count = min(count, self._next - self._offset - self._around)
        if count > 0:
            self._looks, self._times, self._changes = (
                self._looks[count:], self._times[count:], self._changes[count:]
            )  # fmt: skip
            self._offset += count

    def _judge(self, at: int) -> None:
        """Whether the frame at this place of those that are kept is the first of a new shot."""
        change = self._changes[at]
        if at < 1 or change < CHANGES[-1][0]:
            return
        around = self._changes[max(1, at - self._around) : at] + self._changes[at + 1 : at + 1 + self._around]
        near = self._changes[max(1, at - 2) : at] + self._changes[at + 1 : at + 3]
        usual = max(float(np.median(around)), float(np.mean(near))) if near else 0.0
        if not any(change >= least and change >= times * usual for least, times in CHANGES):
            return
        before = self._looks[max(0, at - self._flash) : at]
        after = self._looks[at : at + self._flash]
        if min(difference(a, b) for a in before for b in after) < STAYS * change:
            return  # the picture of before comes back, or that of after was there before
        self._cuts.append(Cut(self._times[at], round(min(1.0, change), 4)))

    def _watch_fade(self, looks: Looks, seconds: float) -> None:
        brightness = float(looks[-GRID[0] * GRID[1] :].mean())
        gone = brightness <= DARK or brightness >= BRIGHT
        if gone and self._gone_since is None:
            self._gone_since = seconds
        elif not gone and self._gone_since is not None:
            self._empty.append((self._gone_since, seconds))
            self._gone_since = None

    def _fades(self) -> Iterator[float]:
        """The middles of stretches without a picture between two pictures, unless a cut leads to or from them."""
        cuts = {cut.time_s for cut in self._cuts}
        for begin, end in self._empty:
            if begin > self._start and not cuts & {begin, end}:
                yield (begin + end) / 2


def looks_of(picture: Pixels) -> Looks:
    """Histograms of hue and brightness, and brightness by place, of a picture [H, W, 3]."""
    rgb = picture.astype(np.float32) / 255
    value, least = rgb.max(2), rgb.min(2)
    spread = value - least
    coloured = np.minimum(1, 2 * spread)  # what is nearly grey or black has no hue
    hues = _histogram(_hue(rgb, value, spread) * HUES, coloured, HUES, around=True)
    values = _histogram(value * (VALUES - 1), np.ones_like(value), VALUES)
    grey = [value.size - coloured.sum()]
    bins = np.concatenate((hues, grey, values)) / (2 * value.size)
    rows, columns = GRID
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    height, width = luma.shape
    cells = luma[: height // rows * rows, : width // columns * columns]
    cells = cells.reshape(rows, height // rows, columns, width // columns).mean((1, 3))
    return np.concatenate((bins, cells.ravel())).astype(np.float32)


def _hue(rgb: Numbers, value: Numbers, spread: Numbers) -> Numbers:
    """Hue of each pixel, from 0 to 1."""
    red, green, blue = (rgb[..., channel] for channel in range(3))
    safe = np.where(spread > 0, spread, 1)
    sixths = np.where(
        value == red,
        (green - blue) / safe % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return np.asarray(sixths / 6)


def _histogram(places: Numbers, weights: Numbers, bins: int, *, around: bool = False) -> Numbers:
    """Share of pixels in each bin; ``around``: the first follows the last."""
    low = np.floor(places).astype(int)
    part = (places - low) * weights
    counted = np.bincount((low % bins).ravel(), (weights - part).ravel(), bins)
    high = (low + 1) % bins if around else np.minimum(low + 1, bins - 1)
    return np.asarray(counted + np.bincount(high.ravel(), part.ravel(), bins), np.float64)


def difference(a: Looks, b: Looks) -> float:
    """How different two pictures are, from 0 to 1: half by their colours, half by brightness in its places."""
    places = GRID[0] * GRID[1]
    colours = float(np.abs(a[:-places] - b[:-places]).sum()) / 2
    brightness = float(np.abs(a[-places:] - b[-places:]).mean())
    return 0.5 * colours + 0.5 * min(1.0, 3 * brightness)
