"""Opens a video of any kind, and chooses what decodes it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from videoxl.errors import MissingDependencyError, shortages_named
from videoxl.video.decoder.segments import DecoderProcesses, check_processes
from videoxl.video.decoder.source import FileSource
from videoxl.video.info import VideoLimits
from videoxl.video.local_file import display_name, is_picture_file, open_local, refuse_other_kinds
from videoxl.video.pictures import (
    Tensor,
    open_array,
    open_folder,
    open_picture_file,
    open_pictures,
    open_still,
)
from videoxl.video.pillow_image import bad_frames
from videoxl.video.source import VideoSource
from videoxl.video.stream import StreamSource

DEFAULT_LIMITS = VideoLimits()
READER_VARIABLE = "VIDEOXL_VIDEO_READER"
"""Environment variable that names the reader of every file."""
PROCESSES_VARIABLE = "VIDEOXL_DECODER_PROCESSES"
"""Environment variable that bounds the number of decoder processes of every file."""


def _pyav() -> str:
    return f"PyAV {importlib.metadata.version('av')}: exact frame times, tolerates damage, brings its own FFmpeg"


def _torchcodec() -> str:
    if importlib.util.find_spec("torchcodec") is None:
        raise MissingDependencyError(
            "reader='torchcodec' needs the torchcodec package and FFmpeg libraries: pip install 'videoxl[torchcodec]', "
            "or use reader='pyav'"
        )
    return f"torchcodec {importlib.metadata.version('torchcodec')}: frame index by PyAV, pictures by torchcodec"


READERS: dict[str, Callable[[], str]] = {"pyav": _pyav, "torchcodec": _torchcodec}
"""Name -> function that describes the reader, or raises ``MissingDependencyError``."""


def choose_reader(name: str = "auto") -> tuple[str, str]:
    """(name, reason). ``auto`` is PyAV unless the environment variable ``VIDEOXL_VIDEO_READER`` names another."""
    origin = "asked for"
    if name == "auto":
        name, origin = os.environ.get(READER_VARIABLE, "auto"), f"set by {READER_VARIABLE}"
    if name == "auto":
        name, origin = "pyav", "default"
    if name not in READERS:
        raise ValueError(f"unknown reader {name!r}; available: auto, {', '.join(READERS)}")
    return name, f"{origin}; {READERS[name]()}"


def choose_decoder_processes(asked: int | str = "auto") -> DecoderProcesses:
    """``auto`` is the number in the environment variable ``VIDEOXL_DECODER_PROCESSES``, where it is set."""
    if asked == "auto":
        return check_processes(os.environ.get(PROCESSES_VARIABLE, "auto"), PROCESSES_VARIABLE)
    return check_processes(asked, "decoder_processes")


@dataclass(frozen=True)
class _FileOptions:
    """How a video file is opened; see :func:`open_video`."""

    stream: int | None
    reader: str
    decoder_processes: DecoderProcesses
    limits: VideoLimits
    strict: bool


def open_video(
    video: object,
    *,
    fps: float | None = None,
    timestamps: Sequence[float] | None = None,
    stream: int | None = None,
    reader: str = "auto",
    decoder_processes: int | str = "auto",
    limits: VideoLimits = DEFAULT_LIMITS,
    strict: bool = False,
) -> VideoSource:
    """Open a video of any kind.

    ``video``: a video file; a folder of pictures (natural order); a list of picture paths, Pillow images or arrays; a
    single picture file or Pillow image; a numpy array or torch tensor [F, H, W, 3] or [F, 3, H, W] (uint8, or floating
    point in 0..1); or an iterator of (frame, seconds) pairs. URLs are not opened: download them first.

    ``fps`` or ``timestamps`` (seconds) give pictures their times; default one a second. Files have times of their own.
    ``stream`` chooses a video stream of a file by number, ``reader`` what decodes it (see :data:`READERS`).
    ``decoder_processes``: at most so many processes decode one file; ``auto``: one for each core, unless the
    environment variable ``VIDEOXL_DECODER_PROCESSES`` holds a number. Fewer are started when the work or the memory is
    not enough for them. Frames are the same however many there are. torchcodec always decodes in one. With ``strict`` a
    video of which a part cannot be read is refused instead of warned about.

    Raises ``VideoError`` (see its ``code``), ``VideoNotFoundError``, ``MissingDependencyError``.
    """
    options = _FileOptions(stream, reader, choose_decoder_processes(decoder_processes), limits, strict)
    source = _open(video, fps, timestamps, options)
    source.times_given = timestamps is not None
    return source


def _open(video: object, fps: float | None, timestamps: Sequence[float] | None, options: _FileOptions) -> VideoSource:
    limits = options.limits
    if isinstance(video, os.PathLike | str):
        with shortages_named(display_name(video)):
            return _open_path(video, fps, timestamps, options)
    if isinstance(video, (bytes, bytearray, memoryview)):
        raise bad_frames("bytes are not accepted as a video: give a path, an array or frames")
    if isinstance(video, Image.Image):
        return open_still(video, limits)
    if isinstance(video, np.ndarray | Tensor):
        return open_array(video, fps, timestamps)
    if isinstance(video, Sequence):
        return open_pictures(video, fps, timestamps, limits, f"list of {len(video)} pictures")
    if isinstance(video, Iterator):
        if fps is not None or timestamps is not None:
            raise bad_frames("an iterator gives (frame, seconds) pairs: leave out fps and timestamps")
        return StreamSource(video, limits)
    raise bad_frames(f"a {type(video).__name__} cannot be read as a video")


def _open_path(
    path: str | os.PathLike[str],
    fps: float | None,
    timestamps: Sequence[float] | None,
    options: _FileOptions,
) -> VideoSource:
    if _is_folder(path):
        return open_folder(Path(path), fps, timestamps, options.limits)
    file = open_local(path)
    try:
        if is_picture_file(file.head) and (pictures := open_picture_file(file, fps, timestamps, options.limits)):
            return pictures
        if fps is not None or timestamps is not None:
            raise bad_frames("fps and timestamps are for pictures: a video file has its own times (see Sampling.fps)")
        refuse_other_kinds(file)
        return FileSource(
            file,
            stream=options.stream,
            reader=choose_reader(options.reader),
            decoder_processes=options.decoder_processes,
            limits=options.limits,
            strict=options.strict,
        )
    except BaseException:
        file.close()
        raise


def _is_folder(path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.isdir(path)
    except ValueError:  # a NUL in the name: opening the file says so
        return False
