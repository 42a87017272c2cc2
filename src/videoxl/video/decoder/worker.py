"""The decoder process: one file, one descriptor, hard limits, no torch.

It is forked by :mod:`videoxl.video.decoder.fork_server` and gets three descriptors: the file, commands, answers.
A process for pictures may get any number of files besides, as bytes with a command.
Damaged and hostile files can hang, crash or swell a decoder; here that ends a process, not the program.
"""

from __future__ import annotations

import resource
from functools import partial

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from videoxl.errors import MissingDependencyError, VideoError
from videoxl.video.decoder.channel import Channel, NewerCommandError
from videoxl.video.decoder.messages import ErrorReport, OpenCommand, PictureAnswer, PictureCommand
from videoxl.video.decoder.picture_file import PictureFile
from videoxl.video.decoder.session import DecodeSession, open_session
from videoxl.video.frames import Pixels
from videoxl.video.info import LEAST_MEMORY, VideoLimits
from videoxl.video.resize import resize_pixels

OPENING_MEMORY = LEAST_MEMORY
"""Address space, in bytes, until the container is open: an index that needs more is an attack."""


def serve(channel: Channel, file_fd: int) -> None:
    """Answer commands until the program goes away. A newer command ends the one at work."""
    session: DecodeSession[VideoFrame] | DecodeSession[Pixels] | None = None
    pictures = PictureDesk(channel, file_fd)
    while True:
        command, payload = channel.next_command()
        try:
            if isinstance(command, PictureCommand):
                limit_process(command.limits, "pyav")
                lift_opening_limit("pyav")
                pictures.read(command, payload)
            elif isinstance(command, OpenCommand):
                limit_process(command.limits, command.reader)
                lift = partial(lift_opening_limit, command.reader)
                session = open_session(channel, file_fd, command, bytes(payload), lift)
                session.describe()
            elif session is not None:
                session.read(command)
        except NewerCommandError:
            continue
        except Exception as error:  # noqa: BLE001  (a decoder that is fed garbage raises anything)
            channel.send(error_report(error, command.id))


class PictureDesk:
    """Reads pictures one by one. The process's own file stays open; a file that came as bytes does not."""

    def __init__(self, channel: Channel, file_fd: int) -> None:
        self._channel = channel
        self._file_fd = file_fd
        self._own: PictureFile | None = None
        Image.MAX_IMAGE_PIXELS = None  # our own limit comes first, with its own message

    def read(self, command: PictureCommand, payload: bytearray) -> None:
        """Send one picture of the file in ``payload``, or of the process's own file if that is empty."""
        try:
            file = self._opened(payload, command.limits)
            pixels_HWC = file.read(command.number)
        except (VideoError, MemoryError):
            raise
        except Exception as error:  # Pillow raises anything for damaged files
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise VideoError(f"is not a readable picture ({reason}); get it again", code="bad_frames") from error
        if command.resize:
            pixels_HWC = resize_pixels(pixels_HWC, command.resize)
        answer = PictureAnswer(
            id=command.id,
            shape=pixels_HWC.shape,
            format=file.format,
            reads_as=file.kind,
            pictures=len(file),
            problems=file.problems,
        )
        self._channel.send(answer, np.ascontiguousarray(pixels_HWC).data.cast("B"))

    def _opened(self, payload: bytearray, limits: VideoLimits) -> PictureFile:
        if payload:
            return PictureFile.of_bytes(payload, limits)
        if self._own is None:
            self._own = PictureFile.of_descriptor(self._file_fd, limits)
        return self._own


def limit_process(limits: VideoLimits, reader: str) -> None:
    """Forbid core dumps and bound processor time; where torch is not needed, forbid files and bound memory as well."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, limits.cpu_seconds)
    if reader == "pyav":
        _limit(resource.RLIMIT_FSIZE, 0)
        _limit(resource.RLIMIT_AS, limits.memory_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (OPENING_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def lift_opening_limit(reader: str) -> None:
    """Allow the memory that decoding may take, once the container is open."""
    if reader == "pyav":
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def error_report(error: Exception, command: int) -> ErrorReport:
    """An exception as an answer to a command, in one line."""
    if isinstance(error, VideoError):
        return ErrorReport(id=command, code=error.code, message=str(error))
    if isinstance(error, MissingDependencyError):
        return ErrorReport(id=command, code="missing_dependency", message=str(error))
    if isinstance(error, MemoryError):
        message = "needs more memory than allowed; raise VideoLimits(memory_bytes=...)"
        return ErrorReport(id=command, code="limits_size", message=message)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return ErrorReport(id=command, code="undecodable", message=f"could not be decoded ({text[:300]})")
