"""Videos that are pictures already: arrays, tensors, picture files, folders of them, and single still pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from videoxl.errors import VideoError
from videoxl.video.frames import Frames, Pixels, Resize, Selection, TimedPicture, Times
from videoxl.video.info import VideoInfo, VideoLimits
from videoxl.video.resize import resize_pixels
from videoxl.video.sampling import Timeline
from videoxl.video.source import VideoSource, batches, check_batch_frames


@runtime_checkable
class Tensor(Protocol):
    """A torch tensor, as far as it is used here: torch is not imported."""

    def detach(self) -> Tensor: ...
    def cpu(self) -> Tensor: ...
    def float(self) -> Tensor: ...
    def is_floating_point(self) -> bool: ...
    def numpy(self) -> npt.NDArray[np.generic]: ...


PICTURE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"])


class PictureSource(VideoSource):
    """Pictures with times, fetched one by one by number."""

    def __init__(
        self,
        name: str,
        fetch: Callable[[int], Pixels],
        times_F: Times,
        *,
        fps: float | None,
        kind: tuple[str, str],
        is_still: bool = False,
    ) -> None:
        self.name = name
        self._fetch = fetch
        self.times_F: Times = times_F
        self.is_still = is_still
        self.warnings = []
        height, width = fetch(0).shape[:2]
        timeline = Timeline.from_times(times_F, fps)
        self.info = VideoInfo(
            width=width,
            height=height,
            duration=None if is_still else timeline.end,
            fps=None if is_still else timeline.fps,
            frames=len(times_F),
            codec=kind[0],
            container=kind[1],
            variable_rate=timeline.variable_rate,
        )

    def read(self, selection: Selection, *, resize: Resize | None, batch_frames: int = 32) -> Iterator[Frames]:
        check_batch_frames(batch_frames)
        return batches(self._pictures(selection, resize), batch_frames)

    def _pictures(self, selection: Selection, resize: Resize | None) -> Iterator[TimedPicture]:
        for number, seconds in zip(selection.indices_F.tolist(), selection.timestamps_F.tolist()):
            pixels = self._fetch(number)
            yield (resize_pixels(pixels, resize) if resize else pixels), seconds, number


def open_array(array: object, fps: float | None, timestamps: Sequence[float] | None) -> PictureSource:
    """Open a numpy array or torch tensor [F, H, W, 3] or [F, 3, H, W]: uint8, or floating point in 0..1."""
    frames = _as_numpy(array)
    if frames.ndim != 4 or 3 not in (frames.shape[-1], frames.shape[1]) or 0 in frames.shape:
        raise bad_frames(f"frames must be shaped [F, H, W, 3] or [F, 3, H, W] and not empty, got {list(frames.shape)}")
    if frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    times = frame_times(len(frames), fps, timestamps)
    shape = f"array {list(frames.shape)}"
    return PictureSource(shape, lambda i: to_rgb8(frames[i]), times, fps=fps, kind=("raw", "array"))


def open_pictures(
    pictures: Sequence[object], fps: float | None, timestamps: Sequence[float] | None, limits: VideoLimits, name: str
) -> PictureSource:
    """Open paths, Pillow images or arrays [H, W, 3], in order; sizes may differ."""
    if len(pictures) == 0:
        raise bad_frames(f"{name} holds no pictures")
    times = frame_times(len(pictures), fps, timestamps)
    return PictureSource(name, lambda i: load_picture(pictures[i], limits), times, fps=fps, kind=("pictures", "list"))


def open_still(picture: object, limits: VideoLimits, name: str) -> PictureSource:
    """Open one picture: one frame at 0.0 s."""
    pixels = load_picture(picture, limits)
    times = np.zeros(1, np.float64)
    return PictureSource(name, lambda _: pixels, times, fps=None, kind=("picture", "still"), is_still=True)


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder in natural order: ``2.jpg`` before ``10.jpg``."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def frame_times(count: int, fps: float | None, timestamps: Sequence[float] | None) -> Times:
    """Times of ``count`` pictures, float64 [count]: as given, or at a rate (default one frame a second)."""
    if timestamps is None:
        if fps is not None and not (0 < fps < float("inf")):
            raise bad_frames(f"fps must be a finite number above 0, got {fps!r}")
        return np.arange(count, dtype=np.float64) / (fps or 1.0)
    if fps is not None:
        raise bad_frames("give either fps or timestamps, not both")
    try:
        times = np.array([float(t) for t in timestamps], np.float64)
    except (TypeError, ValueError):
        raise bad_frames(f"timestamps must be a flat list of seconds, got {timestamps!r:.80}") from None
    if len(times) != count:
        raise bad_frames(f"{count} frames need {count} timestamps, got {len(times)}")
    if not np.isfinite(times).all() or times[0] < 0:
        raise bad_frames("timestamps must be finite and 0 or more")
    if (np.diff(times) <= 0).any():
        where = int(np.argmax(np.diff(times) <= 0))
        raise bad_frames(f"timestamps must ascend, but {times[where + 1]:g} s follows {times[where]:g} s")
    return times


def load_picture(picture: object, limits: VideoLimits) -> Pixels:
    """Load a path, a Pillow image or an array as uint8 [H, W, 3]. Transparent parts become black."""
    if isinstance(picture, (str, Path)):
        return _load_file(Path(picture), limits)
    if isinstance(picture, Image.Image):
        return _flatten(picture)
    pixels = _as_numpy(picture)
    if pixels.ndim == 3 and pixels.shape[0] == 3 != pixels.shape[-1]:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise bad_frames(f"a frame must be shaped [H, W, 3] or [3, H, W], got {list(pixels.shape)}")
    return to_rgb8(pixels)


def _load_file(path: Path, limits: VideoLimits) -> Pixels:
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise VideoError(
                    f"{path}: picture size {width}x{height} exceeds {limits.max_pixels / 1e6:.1f} Mpx; "
                    "raise VideoLimits(max_pixels=...)",
                    code="limits_pixels",
                )
            return _flatten(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, OSError) as error:
        raise bad_frames(f"{path}: not a readable picture ({error})") from error


def _flatten(image: Image.Image) -> Pixels:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, rgba).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _as_numpy(value: object) -> npt.NDArray[np.generic]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        return np.asarray(value.numpy())
    if isinstance(value, np.ndarray):
        return value
    raise bad_frames(f"a {type(value).__name__} is not a picture: give paths, Pillow images, numpy arrays or tensors")


def to_rgb8(pixels: npt.NDArray[np.generic]) -> Pixels:
    """Pixels as uint8: floating point in 0..1 is rounded to 0..255. Raises ``VideoError`` ``bad_frames``."""
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise bad_frames(f"frames must be uint8, or floating point in 0..1, got {pixels.dtype}")
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise bad_frames("floating point frames must lie in 0..1: divide by 255, or convert to uint8")
    return np.ascontiguousarray(np.rint(pixels * 255).astype(np.uint8))


def bad_frames(message: str) -> VideoError:
    """The error for pictures or times that cannot be used."""
    return VideoError(message, code="bad_frames")
