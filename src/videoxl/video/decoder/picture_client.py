"""Picture files, decoded in a process of their own: one process for all pictures of a folder or a list."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

import numpy as np

from videoxl.errors import VideoError
from videoxl.video.decoder.client import DecoderProcess
from videoxl.video.decoder.messages import PictureAnswer, PictureCommand, PictureKind
from videoxl.video.frames import Pixels, Resize
from videoxl.video.info import VideoLimits
from videoxl.video.local_file import LocalFile

MAX_PICTURE_BYTES = 256 * 2**20
"""Larger files of a list or folder are refused: their bytes are sent to the process."""


@dataclass(frozen=True)
class Picture:
    """One picture of a file, and what the file is."""

    pixels_HWC: Pixels
    format: str
    """Such as ``JPEG``."""
    reads_as: PictureKind
    pictures: int
    """Number of pictures in the file."""
    delays: tuple[int, ...]
    """How many milliseconds each picture of an animation is shown; empty for others, and with later pictures."""
    problems: tuple[str, ...]


class PictureDecoder:
    """Reads pictures in a decoder process, which starts with the first and ends with :meth:`close` or this object."""

    def __init__(self, limits: VideoLimits, own: LocalFile | None = None) -> None:
        """``own``: the file that :meth:`read_own` reads, by its descriptor."""
        self._limits = limits
        self._own = own
        self._process: DecoderProcess | None = None
        self._commands = itertools.count()

    def read(self, file: LocalFile, resize: Resize | None = None) -> Picture:
        """The only picture of an opened file. Raises ``VideoError`` for what is none, or holds several."""
        if file.size > MAX_PICTURE_BYTES:
            raise VideoError(
                f"{file.name}: {file.size} bytes are more than a picture takes; "
                f"give a file of at most {MAX_PICTURE_BYTES} bytes",
                code="limits_size",
            )
        picture = self._ask(file.name, 0, resize, os.pread(file.fd, file.size, 0))
        if picture.reads_as != "still":
            raise VideoError(
                f"{file.name}: holds {picture.pictures} pictures, not one; give it by itself, as a video",
                code="bad_frames",
            )
        return picture

    def read_own(self, number: int, resize: Resize | None = None) -> Picture:
        """Picture ``number`` of the file that this decoder was made for."""
        if self._own is None:
            raise RuntimeError("this decoder was made without a file")
        return self._ask(self._own.name, number, resize, b"")

    def close(self) -> None:
        """End the process. The next picture starts another one."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _ask(self, name: str, number: int, resize: Resize | None, data: bytes) -> Picture:
        process, command = self._started(name), next(self._commands)
        try:
            process.request(PictureCommand(id=command, number=number, resize=resize, limits=self._limits), data)
            answer, payload = process.receive(command)
        except VideoError as error:
            if error.code in ("decoder_died", "decode_timeout"):
                self.close()
            raise
        try:
            return _checked(answer, payload, resize, self._limits)
        except (OverflowError, ValueError) as error:
            self.close()
            raise process.garbage(error) from None

    def _started(self, name: str) -> DecoderProcess:
        """The process, which speaks of the file called ``name`` from now on."""
        if self._process is None and self._own is not None:
            self._process = DecoderProcess(self._own.fd, name, self._limits)
        elif self._process is None:
            with open(os.devnull, "rb") as nothing:
                self._process = DecoderProcess(nothing.fileno(), name, self._limits)
        self._process.name = name
        return self._process


def _checked(answer: object, payload: bytearray, resize: Resize | None, limits: VideoLimits) -> Picture:
    """The answer, compared with what was asked for: a decoder process that was taken over may send anything."""
    if not isinstance(answer, PictureAnswer):
        raise ValueError("no picture in answer to picture")
    height, width, channels = answer.shape
    fits = (height, width) == (resize.height, resize.width) if resize else height * width <= limits.max_pixels
    if not fits or channels != 3 or min(answer.shape) < 1 or answer.pictures < 1:
        raise ValueError(f"a picture of shape {answer.shape}")
    if len(answer.delays) not in (0, answer.pictures):
        raise ValueError(f"{len(answer.delays)} delays of {answer.pictures} pictures")
    return Picture(
        np.frombuffer(payload, np.uint8).reshape(answer.shape),
        answer.format,
        answer.reads_as,
        answer.pictures,
        tuple(answer.delays),
        tuple(answer.problems),
    )
