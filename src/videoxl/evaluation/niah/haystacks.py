"""Where needles are hidden: scenery of the generated world or a video file, read frame by frame, with needles put in.

A haystack is an opened video like any other, so models read it by the same calls as a file; nothing of it is held but
the batch being read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from videoxl.errors import VideoError
from videoxl.evaluation.niah.needles import Asked, PictureNeedle, film_of, questions_about
from videoxl.evaluation.niah.settings import NiahSettings, Place
from videoxl.video import Frames, Resize, Selection, VideoInfo, VideoLimits, VideoSource
from videoxl.video.pictures import PictureSource, load_picture
from videoxl.video.resize import resize_pixels
from videoxl.video.sampling import uniform_indices
from videoxl.video.source import check_batch_frames
from videoxl.world import Film, Renderer
from videoxl.world.film import FRAMES_PER_GROUP

Paint = Callable[[np.ndarray], np.ndarray]
"""From a frame, ``[H, W, 3]`` uint8, to the one shown in its place."""
RENDERED = 64
"""Frames of the generated world drawn at once."""


@dataclass(frozen=True)
class Haystack:
    """A video with needles, and what is asked about it."""

    place: Place
    source: VideoSource
    asked: tuple[Asked, ...]


class PlantedSource(VideoSource):
    """Some frames of another video, in which some are painted over. Closing it leaves the other one open."""

    def __init__(self, base: VideoSource, chosen_F: np.ndarray, painted: Mapping[int, Paint], name: str) -> None:
        """``chosen_F``: numbers of the frames taken, ascending; ``painted``: by their place among these."""
        if base.times_F is None or (np.diff(chosen_F) <= 0).any():
            raise VideoError(
                f"{base.name} has {base.info.frames} frames, too few for a haystack of {len(chosen_F)}: give fewer",
                code="no_frames_selected",
            )
        self._base, self._chosen_F, self._painted = base, chosen_F, painted
        self.name = name
        self.times_F: np.ndarray = base.times_F[chosen_F]
        self.warnings = base.warnings
        self.info = VideoInfo(
            width=base.info.width,
            height=base.info.height,
            duration=base.info.duration,
            fps=None,
            frames=len(chosen_F),
            codec=base.info.codec,
            container=base.info.container,
            reader=base.info.reader,
        )

    def read(self, selection: Selection, *, resize: Resize | None, batch_frames: int = 32) -> Iterator[Frames]:
        """Raises :class:`VideoError` when frames are missing: a haystack that may lack its needle tests nothing."""
        check_batch_frames(batch_frames)
        inner = Selection(self._chosen_F[selection.indices_F], selection.timestamps_F)
        done = 0
        for frames in self._base.read(inner, resize=resize, batch_frames=batch_frames):
            numbers_F = np.searchsorted(self._chosen_F, frames.indices_F)
            pixels = frames.pixels_FHWC.copy()
            for at, number in enumerate(numbers_F.tolist()):
                if number in self._painted:
                    pixels[at] = self._painted[number](pixels[at])
            done += len(frames)
            yield Frames(pixels, frames.timestamps_F, numbers_F.astype(np.int64))
        if done < len(selection):
            raise VideoError(
                f"{self._base.name}: {len(selection) - done} of {len(selection)} frames could not be read",
                code="partial",
            )


def make_haystack(
    settings: NiahSettings,
    place: Place,
    *,
    size: int,
    kinds: tuple[str, ...],
    needles: list[PictureNeedle],
    video: VideoSource | None,
) -> Haystack:
    """A haystack of the grid.

    Args:
        size: side of the pictures the model reads, for what is drawn.
        kinds: of questions about generated things.
        needles: pictures; none for generated things.
        video: the film to hide them in; None for the generated world.
    """
    name = f"haystack {place.name}"
    chosen_F = np.arange(place.frames) if video is None else uniform_indices(len(_times(video)), place.frames)
    begin, step = (0.0, FRAMES_PER_GROUP / settings.fps) if video is None else _clock(_times(video)[chosen_F])
    if needles:
        asked, painted = _pictures(settings, place, needles)
        film = Film(_groups(place.frames), (), step, begin, _scenery_seed(settings, place))
    else:
        film = film_of(settings, place, step=step, begin=begin)
        asked, painted = questions_about(film, settings, place, kinds), _things(film, place) if video else {}
    base = video or world_source(film, place.frames, size, name)
    return Haystack(place, PlantedSource(base, chosen_F, painted, name), tuple(asked))


def world_source(film: Film, frames: int, size: int, name: str) -> PictureSource:
    """The first ``frames`` frames of a film, drawn as they are read. Its clock is the film's."""
    renderer = Renderer(film)

    @lru_cache(maxsize=2)
    def drawn(part: int) -> np.ndarray:
        return renderer.frames(size, part * RENDERED, min(frames, (part + 1) * RENDERED))

    times_F = np.array(film.timestamps[:frames])
    fps = FRAMES_PER_GROUP / film.step
    return PictureSource(name, lambda n: drawn(n // RENDERED)[n % RENDERED], times_F, fps=fps, kind=("world", "film"))


def _things(film: Film, place: Place) -> dict[int, Paint]:
    """The things of a film, over whatever stands there."""
    renderer = Renderer(film)
    shown = {frame for e in film.events for frame in range(e.start * FRAMES_PER_GROUP, e.end * FRAMES_PER_GROUP)}
    return {n: lambda pixels, n=n: renderer.over(pixels, n) for n in sorted(shown) if n < place.frames}  # type: ignore[misc]


def _pictures(
    settings: NiahSettings, place: Place, needles: list[PictureNeedle]
) -> tuple[list[Asked], dict[int, Paint]]:
    """Pictures in the place of frames; sample and depth say which, so that over all samples each stands everywhere."""
    length = settings.needle_frames or 1
    asked: list[Asked] = []
    painted: dict[int, Paint] = {}
    for number, (depth, is_asked) in enumerate(zip(place.depths, place.asked)):
        needle = needles[(place.sample + number) % len(needles)]
        start = round(depth * (place.frames - length))
        shown = range(start, start + length)
        if painted.keys() & set(shown):
            raise ValueError(
                f"{len(place.depths)} needles of {length} frames do not fit a haystack of {place.frames} frames at "
                f"depths {place.depths}: give more frames or fewer needles"
            )
        painted |= dict.fromkeys(shown, _instead(needle.image))
        if is_asked:
            asked.append(needle.ask(depth, (shown.start, shown.stop), choice=settings.choice))
    return asked, painted


def _instead(image: Path) -> Paint:
    """A picture in the place of a frame, resized as the frame is."""
    limits = VideoLimits()

    def paint(pixels: np.ndarray) -> np.ndarray:
        return resize_pixels(load_picture(image, limits), Resize(*pixels.shape[:2]))

    return paint


def _times(video: VideoSource) -> np.ndarray:
    if video.times_F is None or video.is_still:
        raise VideoError(f"{video.name} is no video file: a haystack is a file of many frames", code="not_a_video")
    return video.times_F


def _clock(times_F: np.ndarray) -> tuple[float, float]:
    """When evenly spread frames begin, and seconds per group."""
    return float(times_F[0]), float(times_F[-1] - times_F[0]) / (len(times_F) - 1) * FRAMES_PER_GROUP


def _groups(frames: int) -> int:
    return -(-frames // FRAMES_PER_GROUP)


def _scenery_seed(settings: NiahSettings, place: Place) -> int:
    return int(np.random.default_rng((settings.seed, *place.seed)).integers(2**31))
