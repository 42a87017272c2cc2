"""Haystacks: scenery of the generated world or a video file, with needles painted into its frames as they are read.

A haystack is an opened video like any other, so models read it by the same calls as a file. Only the batch being read
is held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from videoxl.errors import VideoError
from videoxl.evaluation.niah.needles import PictureNeedle, Question, make_film, questions_about
from videoxl.evaluation.niah.settings import HaystackPlan, NiahSettings
from videoxl.video import Frames, Resize, Selection, VideoInfo, VideoLimits, VideoSource
from videoxl.video.pictures import PictureSource, load_picture, resized
from videoxl.video.resize import resize_pixels
from videoxl.video.sampling import uniform_indices
from videoxl.video.source import check_batch_frames
from videoxl.world import Film, Renderer
from videoxl.world.film import FRAMES_PER_GROUP

Paint = Callable[[np.ndarray], np.ndarray]
"""Takes a frame, ``[H, W, 3]`` uint8, and returns the one shown in its plan."""
RENDER_BATCH = 64
"""Frames of the generated world drawn at once."""


@dataclass(frozen=True)
class Haystack:
    """A video with needles, and the questions about them."""

    plan: HaystackPlan
    source: VideoSource
    questions: tuple[Question, ...]


class PlantedSource(VideoSource):
    """Chosen frames of another video, some of them painted over. Closing it leaves the other video open."""

    def __init__(self, base: VideoSource, chosen_F: np.ndarray, painted: Mapping[int, Paint], name: str) -> None:
        """``chosen_F``: frame numbers of ``base``, ascending; ``painted``: by position in ``chosen_F``."""
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
            start=float(self.times_F[0]),
            duration=None if base.info.end is None else base.info.end - float(self.times_F[0]),
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
    plan: HaystackPlan,
    *,
    size: int,
    kinds: tuple[str, ...],
    needles: list[PictureNeedle],
    video: VideoSource | None,
) -> Haystack:
    """Make a haystack of the grid.

    Args:
        size: side of the pictures the model reads, for what is drawn.
        kinds: which questions to ask about generated things.
        needles: pictures to hide; empty for generated things.
        video: the film to hide them in; None for the generated world.
    """
    name = f"haystack {plan.name}"
    chosen_F = np.arange(plan.frames) if video is None else uniform_indices(len(_times(video)), plan.frames)
    begin, step = (0.0, FRAMES_PER_GROUP / settings.fps) if video is None else _clock(_times(video)[chosen_F])
    if needles:
        questions, painted = _pictures(settings, plan, needles)
        film = Film(_groups(plan.frames), (), step, begin, _scenery_seed(settings, plan))
    else:
        film = make_film(settings, plan, step=step, begin=begin)
        questions, painted = questions_about(film, settings, plan, kinds), _things(film, plan) if video else {}
    base = video or world_source(film, plan.frames, size, name)
    return Haystack(plan, PlantedSource(base, chosen_F, painted, name), tuple(questions))


def world_source(film: Film, frames: int, size: int, name: str) -> PictureSource:
    """Return the first ``frames`` frames of a film as a video. They are drawn when read, at the film's times."""
    renderer = Renderer(film)

    @lru_cache(maxsize=2)
    def drawn(part: int) -> np.ndarray:
        return renderer.frames(size, part * RENDER_BATCH, min(frames, (part + 1) * RENDER_BATCH))

    times_F = np.array(film.timestamps[:frames])
    fps = FRAMES_PER_GROUP / film.step
    return PictureSource(
        name,
        lambda n, resize: resized(drawn(n // RENDER_BATCH)[n % RENDER_BATCH], resize),
        times_F,
        fps=fps,
        kind=("world", "film"),
    )


def _things(film: Film, plan: HaystackPlan) -> dict[int, Paint]:
    """Paint the things of a film over other frames."""
    renderer = Renderer(film)
    shown = {frame for e in film.events for frame in range(e.start * FRAMES_PER_GROUP, e.end * FRAMES_PER_GROUP)}
    return {n: lambda pixels, n=n: renderer.over(pixels, n) for n in sorted(shown) if n < plan.frames}  # type: ignore[misc]


def _pictures(
    settings: NiahSettings, plan: HaystackPlan, needles: list[PictureNeedle]
) -> tuple[list[Question], dict[int, Paint]]:
    """Put pictures in the place of frames.

    Sample and depth choose the picture, so that over all samples each stands at every depth.
    """
    length = settings.needle_frames or 1
    questions: list[Question] = []
    painted: dict[int, Paint] = {}
    for number, (depth, is_asked) in enumerate(zip(plan.depths, plan.asked)):
        needle = needles[(plan.sample + number) % len(needles)]
        start = round(depth * (plan.frames - length))
        shown = range(start, start + length)
        if painted.keys() & set(shown):
            raise ValueError(
                f"{len(plan.depths)} needles of {length} frames do not fit a haystack of {plan.frames} frames at "
                f"depths {plan.depths}: give more frames or fewer needles"
            )
        painted |= dict.fromkeys(shown, _instead(needle.image))
        if is_asked:
            questions.append(needle.ask(depth, (shown.start, shown.stop), choice=settings.choice))
    return questions, painted


def _instead(image: Path) -> Paint:
    """Show a picture in the place of a frame, resized as the frame is."""
    limits = VideoLimits()

    def paint(pixels: np.ndarray) -> np.ndarray:
        return resize_pixels(load_picture(image, limits), Resize(*pixels.shape[:2]))

    return paint


def _times(video: VideoSource) -> np.ndarray:
    if video.times_F is None or video.is_still:
        raise VideoError(f"{video.name} is no video file: a haystack is a file of many frames", code="not_a_video")
    return video.times_F


def _clock(times_F: np.ndarray) -> tuple[float, float]:
    """Return when evenly spread frames begin, and seconds per group."""
    return float(times_F[0]), float(times_F[-1] - times_F[0]) / (len(times_F) - 1) * FRAMES_PER_GROUP


def _groups(frames: int) -> int:
    return -(-frames // FRAMES_PER_GROUP)


def _scenery_seed(settings: NiahSettings, plan: HaystackPlan) -> int:
    return int(np.random.default_rng((settings.seed, *plan.seed)).integers(2**31))
