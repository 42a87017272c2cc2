"""Videos that are pictures already: arrays, tensors, picture files, folders of them, and single still pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from videoxl.errors import VideoError
from videoxl.video.decoder.picture_client import Picture, PictureDecoder
from videoxl.video.frames import Frames, Pixels, Resize, Selection, TimedPicture, Times
from videoxl.video.info import VideoInfo, VideoLimits
from videoxl.video.local_file import Directory, LocalFile, display_name, open_directory, open_local
from videoxl.video.pillow_image import bad_frames, check_picture_pixels, to_rgb, upright
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


PICTURE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif"]
)
PAGES = "pages"
"""Container of a TIFF with several pages: all of them are read, whatever the size of a group."""
NAMED_FILES = 3
"""A warning names at most so many files."""
JPEGS_PER_SECOND = 25.0
"""Rate of JPEGs one after another in a file, which does not say it: FFmpeg's default."""

Fetch = Callable[[int, Resize | None], Pixels]
"""Gives a picture by its number, resized where a size is given."""


class PictureSource(VideoSource):
    """Pictures with times, fetched one by one by number."""

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        times_F: Times,
        *,
        fps: float | None,
        kind: tuple[str, str],
        end: float | None = None,
        is_still: bool = False,
        reader: str = "memory",
        reader_reason: str = "the pictures are already decoded",
        problems: Sequence[str] = (),
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self._fetch = fetch
        self.times_F: Times = times_F
        self.is_still = is_still
        self.warnings = list(problems)
        self._close = close
        height, width = fetch(0, None).shape[:2]
        timeline = Timeline.from_times(times_F, fps, end)
        self.info = VideoInfo(
            width=width,
            height=height,
            start=timeline.start,
            duration=None if is_still else timeline.end - timeline.start,
            fps=None if is_still else timeline.fps,
            frames=len(times_F),
            codec=kind[0],
            container=kind[1],
            variable_rate=timeline.variable_rate,
            reader=reader,
            reader_reason=reader_reason,
            warnings=tuple(problems),
        )

    def read(self, selection: Selection, *, resize: Resize | None, batch_frames: int = 32) -> Iterator[Frames]:
        check_batch_frames(batch_frames)
        return batches(self._pictures(selection, resize), batch_frames)

    def close(self) -> None:
        self._close()

    def _pictures(self, selection: Selection, resize: Resize | None) -> Iterator[TimedPicture]:
        for number, seconds in zip(selection.indices_F.tolist(), selection.timestamps_F.tolist()):
            yield self._fetch(number, resize), seconds, number


def open_array(array: object, fps: float | None, timestamps: Sequence[float] | None) -> PictureSource:
    """Open a numpy array or torch tensor [F, H, W, 3] or [F, 3, H, W]: uint8, or floating point in 0..1."""
    frames = _as_numpy(array)
    if frames.ndim != 4 or 3 not in (frames.shape[-1], frames.shape[1]) or 0 in frames.shape:
        raise bad_frames(f"frames must be shaped [F, H, W, 3] or [F, 3, H, W] and not empty, got {list(frames.shape)}")
    if frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    times = frame_times(len(frames), fps, timestamps)
    shape = f"array {list(frames.shape)}"
    return PictureSource(
        shape, lambda i, resize: resized(to_rgb8(frames[i]), resize), times, fps=fps, kind=("raw", "array")
    )


def open_pictures(
    pictures: Sequence[object],
    fps: float | None,
    timestamps: Sequence[float] | None,
    limits: VideoLimits,
    name: str,
    close: Callable[[], object] = lambda: None,
) -> PictureSource:
    """Open paths, Pillow images or arrays [H, W, 3], in order; sizes may differ. ``close`` is called at the end."""
    if len(pictures) == 0:
        raise bad_frames(f"{name} holds no pictures")
    times = frame_times(len(pictures), fps, timestamps)
    loader = PictureLoader(limits)

    def close_all() -> None:
        loader.close()
        close()

    source = PictureSource(
        name,
        lambda i, resize: loader.load(pictures[i], resize),
        times,
        fps=fps,
        kind=("pictures", "list"),
        close=close_all,
    )
    loader.warn_in(source.warnings)
    return source


def open_folder(
    folder: Path, fps: float | None, timestamps: Sequence[float] | None, limits: VideoLimits
) -> PictureSource:
    """Open the picture files of a folder in natural order: ``2.jpg`` before ``10.jpg``."""
    directory = open_directory(folder)
    try:
        pictures, others = _pictures_in(directory)
        source = open_pictures(pictures, fps, timestamps, limits, str(folder), directory.close)
    except BaseException:
        directory.close()
        raise
    if others:
        named = ", ".join(display_name(name) for name in others[:NAMED_FILES])
        more = f" and {len(others) - NAMED_FILES} more" if len(others) > NAMED_FILES else ""
        source.warnings.append(f"not read, as no pictures by their names: {named}{more}")
    return source


def open_picture_file(
    file: LocalFile, fps: float | None, timestamps: Sequence[float] | None, limits: VideoLimits
) -> PictureSource | None:
    """Open a picture file: a still at 0.0 s, or several with times. None for an animation that FFmpeg reads."""
    decoder = PictureDecoder(limits, file)
    try:
        first = decoder.read_own(0)
        if first.delays:
            return _open_animation(decoder, first, file, fps, timestamps)
        if first.reads_as == "pages":
            return _open_pages(decoder, first, file, fps, timestamps)
    except BaseException:
        decoder.close()
        raise
    decoder.close()
    if first.reads_as == "video":
        return None
    file.close()
    return _still(first.pixels_HWC, file.name, first.problems)


def _open_pages(
    decoder: PictureDecoder, first: Picture, file: LocalFile, fps: float | None, timestamps: Sequence[float] | None
) -> PictureSource:
    """The pages of a TIFF, as pictures that are looked at one by one; or JPEGs one after another, as a video."""
    problems, count = list(first.problems), first.pictures
    if first.format == "TIFF":
        problems.append(f"its {count} pages are read as pictures, {1 / (fps or 1):g} s apart")
    elif fps is None and timestamps is None:
        fps = JPEGS_PER_SECOND
        problems.append(f"holds {count} JPEG pictures and no rate: {fps:g} a second are assumed; give fps if it is not")

    def close() -> None:
        decoder.close()
        file.close()

    return PictureSource(
        file.name,
        lambda i, resize: decoder.read_own(i, resize).pixels_HWC,
        frame_times(count, fps, timestamps),
        fps=fps,
        kind=(first.format.lower(), PAGES if first.format == "TIFF" else "pictures one after another"),
        reader="pillow",
        reader_reason="several pictures in one file",
        problems=problems,
        close=close,
    )


def _open_animation(
    decoder: PictureDecoder, first: Picture, file: LocalFile, fps: float | None, timestamps: Sequence[float] | None
) -> PictureSource:
    """An animation with its own times, each picture of which is asked for by its number."""
    if fps is not None or timestamps is not None:
        raise bad_frames("fps and timestamps are for pictures: an animation has its own times (see Sampling.fps)")
    ends_F = np.cumsum(np.array(first.delays, np.float64)) / 1000

    def close() -> None:
        decoder.close()
        file.close()

    return PictureSource(
        file.name,
        lambda i, resize: decoder.read_own(i, resize).pixels_HWC,
        np.concatenate([[0.0], ends_F[:-1]]),
        fps=None,
        kind=(first.format.lower(), "animation"),
        end=float(ends_F[-1]),
        reader="pillow",
        reader_reason="FFmpeg does not read animated WebP",
        problems=first.problems,
        close=close,
    )


def open_still(picture: Image.Image, limits: VideoLimits) -> PictureSource:
    """Open one Pillow image: one frame at 0.0 s."""
    pixels, problem = _from_pillow(picture, limits)
    return _still(pixels, "picture", [problem] if problem else [])


def _still(pixels: Pixels, name: str, problems: Sequence[str]) -> PictureSource:
    return PictureSource(
        name,
        lambda _, resize: resized(pixels, resize),
        np.zeros(1, np.float64),
        fps=None,
        kind=("picture", "still"),
        is_still=True,
        problems=problems,
    )


@dataclass(frozen=True)
class FolderEntry:
    """A file of an open folder."""

    directory: Directory
    name: str


def _pictures_in(directory: Directory) -> tuple[list[FolderEntry], list[str]]:
    """(the picture files in natural order, the names of the other files that are not hidden)."""
    names = sorted((name for name in directory.names() if not name.startswith(".")), key=natural_key)
    chosen = [name for name in names if Path(name).suffix.lower() in PICTURE_SUFFIXES]
    return [FolderEntry(directory, name) for name in chosen], [name for name in names if name not in set(chosen)]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key for names: numbers in them count by their value."""
    parts = re.split(r"(\d+)", name)
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


class PictureLoader:
    """Loads pictures of any kind. Files are decoded in a process of their own, which starts with the first."""

    def __init__(self, limits: VideoLimits) -> None:
        self._limits = limits
        self._decoder = PictureDecoder(limits)
        self._seen: dict[str, tuple[str, int]] = {}
        self._warnings: list[str] = []

    def warn_in(self, warnings: list[str]) -> None:
        """Write what is found wrong to this list, which may be read at any time: once for all files alike."""
        warnings.extend(self._warnings)
        self._warnings = warnings

    def close(self) -> None:
        """End the process."""
        self._decoder.close()

    def load(self, picture: object, resize: Resize | None = None) -> Pixels:
        """Load a path, a Pillow image or an array as uint8 [H, W, 3]. Transparent parts become black.

        Raises ``VideoError``.
        """
        if isinstance(picture, (str, Path, FolderEntry)):
            return self._from_file(picture, resize)
        if isinstance(picture, Image.Image):
            pixels, problem = _from_pillow(picture, self._limits)
            if problem:
                self._note("a Pillow image", problem)
            return resized(pixels, resize)
        array = _as_numpy(picture)
        if array.ndim == 3 and array.shape[0] == 3 != array.shape[-1]:
            array = array.transpose(1, 2, 0)
        if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
            raise bad_frames(f"a frame must be shaped [H, W, 3] or [3, H, W], got {list(array.shape)}")
        return resized(to_rgb8(array), resize)

    def _from_file(self, path: str | Path | FolderEntry, resize: Resize | None) -> Pixels:
        file = path.directory.open(path.name) if isinstance(path, FolderEntry) else open_local(path)
        try:
            picture = self._decoder.read(file, resize)
        finally:
            file.close()
        for problem in picture.problems:
            self._note(file.name, problem)
        return picture.pixels_HWC

    def _note(self, name: str, problem: str) -> None:
        """Add a warning; where another file had the same problem, change its warning."""
        first, place = self._seen.setdefault(problem, (name, len(self._warnings)))
        if place == len(self._warnings):
            self._warnings.append(f"{name}: {problem}")
        elif first != name:
            self._warnings[place] = f"{first} and others: {problem}"


def load_picture(picture: object, limits: VideoLimits) -> Pixels:
    """Load one picture: see :meth:`PictureLoader.load`."""
    loader = PictureLoader(limits)
    try:
        return loader.load(picture)
    finally:
        loader.close()


def _from_pillow(image: Image.Image, limits: VideoLimits) -> tuple[Pixels, str | None]:
    """(pixels, what is wrong if anything) of an image that may not be decoded yet."""
    if isinstance(image, ImageFile.ImageFile):
        check_picture_pixels(*image.size, limits)
        if image.format == "EPS":
            raise bad_frames("an EPS is a program, not a picture, and is not run; convert it to PNG")
    try:
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format != "MPO":
            raise bad_frames(
                f"a Pillow image holds {count} pictures, not one: give the path of its file, or image.copy() of one"
            )
        turned, problem = upright(image)
        return to_rgb(turned), problem
    except (VideoError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise anything for damaged data
        raise bad_frames(f"a Pillow image cannot be read ({type(error).__name__}: {str(error)[:200]})") from error


def resized(pixels_HWC: Pixels, resize: Resize | None) -> Pixels:
    """The picture at the size that is asked for, if any."""
    return resize_pixels(pixels_HWC, resize) if resize else pixels_HWC


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
