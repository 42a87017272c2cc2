"""What every kind of video input can do."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from videoxl.config import Sampling
from videoxl.errors import PartialVideoWarning, VideoError
from videoxl.video.frames import Frames, Resize, Selection, TimedPicture, Times
from videoxl.video.info import DecodingWork, VideoInfo
from videoxl.video.sampling import Timeline, select_frames

if TYPE_CHECKING:  # they would bring a library into the decoder processes
    from videoxl.video.sound import Sound
    from videoxl.video.subtitles import Cue

BATCH_BYTES = 256 * 2**20
"""A batch holds no more bytes than this, whatever ``batch_frames`` is."""


class VideoSource(ABC):
    """An opened video: choose frames with :meth:`select`, get them with :meth:`read`, in bounded batches.

    Use it as a context manager, or call :meth:`close`.
    """

    name: str
    """Name of this video in messages."""
    info: VideoInfo
    """What is known about it."""
    times_F: Times | None
    """float64 [F]: when each frame is shown, in seconds from the start of the file. None when not known beforehand."""
    times_given: bool = False
    """Whether somebody gave the times of pictures. Else they were made up from a rate, beginning at 0."""
    is_still: bool = False
    """Whether this is a single still picture."""
    digest: str | None = None
    """sha256 over the size and the first and last MiB of the file. None where there is no file."""
    warnings: list[str]
    """What was found wrong so far, while opening and reading."""
    losses: tuple[str, ...] = ()
    """Those of ``warnings`` of which the caller was warned by Python's ``warnings`` as well."""

    def select(self, sampling: Sampling, *, whole_groups_of: int = 1) -> Selection:
        """Choose frames. Raises ``VideoError`` ``no_frames_selected`` when there is none in the range."""
        if self.times_F is None:
            raise NotImplementedError(f"{type(self).__name__} has no frame times and must choose frames itself")
        timeline = Timeline.from_times(self.times_F, self.info.fps, self.info.end)
        try:
            return select_frames(timeline, sampling, whole_groups_of)
        except VideoError as error:
            raise VideoError(f"{self.name}: {error}", code=error.code) from None

    def decoding_work(self, selection: Selection) -> DecodingWork:
        """What it takes to decode a selection; nothing where pictures are decoded already."""
        return DecodingWork()

    @abstractmethod
    def read(self, selection: Selection, *, resize: Resize | None, batch_frames: int = 32) -> Iterator[Frames]:
        """Yield the selected frames in order, at most ``batch_frames`` at a time, all of one size within a batch.

        Frames that cannot be decoded are left out and named in ``warnings``. A second ``read`` ends the first one.
        """

    def subtitle_track(self, which: str = "") -> tuple[Cue, ...]:
        """Read a subtitle track of the file: ``which`` is the number of a stream, or a language.

        Without it, the one that is meant for everybody; then a file that has none gives no cue and says so in
        ``warnings``. Raises ``VideoError`` ``bad_subtitles`` for a track that is not there or holds no text.
        """
        if which:
            raise VideoError(f"{self.name}: has no subtitle tracks, only video files have", code="bad_subtitles")
        self.note("no subtitles are read with it: only video files have tracks of them")
        return ()

    def sound(self, which: str = "", start_s: float = 0.0, end_s: float | None = None) -> Sound | None:
        """The sound of the file between two seconds: one channel of 16,000 samples a second, in chunks.

        ``which`` is the number of a stream, or a language; without it, the track that is meant for everybody. None
        where there is no sound, which ``warnings`` then say. Reading it ends a :meth:`read` that is not finished.
        Raises ``VideoError``: ``bad_sound`` for a track that is not there, ``no_decoder`` for one that cannot be
        decoded.
        """
        if which:
            raise VideoError(f"{self.name}: has no sound tracks, only video files have", code="bad_sound")
        self.note("has no sound: only video files have")
        return None

    def content_digest(self) -> str | None:
        """Sha256 of the whole file, which is read for it. None where there is no file."""
        return None

    def close(self) -> None:  # noqa: B027  (most inputs hold nothing)
        """Release what the source holds. May be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.info.width}x{self.info.height}, {self.info.frames} frames)"

    def note(self, text: str) -> None:
        """Add a sentence to ``warnings``, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def _warn(self, text: str, *, partial: bool, strict: bool) -> None:
        """Keep ``text``; when part of the video is missing also warn the caller, or refuse if ``strict``."""
        if partial and strict:
            raise VideoError(f"{self.name}: {text}", code="partial")
        self.warnings.append(text)
        if partial:
            self.losses = (*self.losses, text)
            warnings.warn(f"{self.name}: {text}", PartialVideoWarning, stacklevel=4)


def check_batch_frames(batch_frames: int) -> None:
    """Raise ``ValueError`` unless ``batch_frames`` is a whole number of at least 1."""
    if isinstance(batch_frames, bool) or not isinstance(batch_frames, int) or batch_frames < 1:
        raise ValueError(f"batch_frames must be a whole number of at least 1, got {batch_frames!r}")


def batches(frames: Iterator[TimedPicture], batch_frames: int) -> Iterator[Frames]:
    """Group pictures into :class:`Frames`; a new size or :data:`BATCH_BYTES` ends a batch."""
    pending: list[TimedPicture] = []
    for frame in frames:
        pixels = frame[0]
        full = len(pending) == batch_frames or (len(pending) + 1) * pixels.nbytes > BATCH_BYTES
        if pending and (full or pending[0][0].shape != pixels.shape):
            yield _stack(pending)
            pending = []
        pending.append(frame)
    if pending:
        yield _stack(pending)


def _stack(frames: list[TimedPicture]) -> Frames:
    pixels, times, numbers = zip(*frames)
    return Frames(np.stack(pixels), np.array(times, np.float64), np.array(numbers, np.int64))
