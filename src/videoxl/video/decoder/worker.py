"""The decoder process: one file, one descriptor, hard limits, a sandbox, no torch.

It is forked by :mod:`videoxl.video.decoder.fork_server` and gets three descriptors: the file, commands, answers.
A process for pictures may get any number of files besides, as bytes with a command.
Damaged and hostile files can hang, crash or swell a decoder; here that ends a process, not the program. A file that
takes it over finds it without rights (:mod:`videoxl.video.decoder.sandbox`).

Whatever is imported here after that must be loaded already: a sandboxed process cannot open the file of a module.
"""

from __future__ import annotations

import importlib
import mmap
import os
import pkgutil
import resource
import stat
from functools import partial
from typing import Never

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from videoxl.errors import MissingDependencyError, VideoError
from videoxl.video.decoder import sandbox, wire
from videoxl.video.decoder.channel import Channel, NewerCommandError
from videoxl.video.decoder.live import LiveReader
from videoxl.video.decoder.messages import (
    ClipCommand,
    Confinement,
    ErrorReport,
    FirstCommand,
    InspectCommand,
    LiveCommand,
    OpenCommand,
    PictureAnswer,
    PictureCommand,
    ReadCommand,
    SoundCommand,
    SubtitleCommand,
    parse_command,
)
from videoxl.video.decoder.picture_file import PictureFile
from videoxl.video.decoder.sandbox import Measure
from videoxl.video.decoder.session import DecodeSession, open_session
from videoxl.video.frames import Pixels
from videoxl.video.info import LEAST_MEMORY, VideoLimits
from videoxl.video.resize import resize_pixels

NO_THREADS = "no more threads can be started; end programs, or raise the limit (ulimit -u, or the container's)"
OPENING_MEMORY = LEAST_MEMORY
"""Address space, in bytes, until the container is open: an index that needs more is an attack."""


def load_late_modules() -> None:
    """Load what numpy and PyAV load when they first need it: in the sandbox that would be too late."""
    parts = [module.name for module in pkgutil.walk_packages(av.__path__, "av.")]
    for name in ("numpy.ma", *parts):
        if name not in ("av.__main__", "av.datasets"):
            importlib.import_module(name)


load_late_modules()


def serve(file_fd: int, commands_fd: int, answers_fd: int) -> Never:
    """Read the first command, give up all rights, and answer commands until the program goes away."""
    try:
        text, payload = wire.receive(commands_fd)
    except wire.WireClosedError:
        os._exit(0)
    first = parse_command(text)
    if not isinstance(first, FirstCommand):
        raise TypeError(f"{first.kind!r} must not be the first command")
    reader = "pyav" if isinstance(first, PictureCommand) else first.reader
    mapped, failure = None, None
    try:
        if isinstance(first, PictureCommand):
            mapped = _map_pictures(file_fd)
        else:
            _load(reader)
    except (MissingDependencyError, OSError) as error:
        failure = error
    measures = [*limit_process(first.limits, reader), *sandbox.enter()]
    channel = Channel(commands_fd, answers_fd, (first, payload))
    try:
        _answer_all(channel, file_fd, mapped, measures, failure)
    finally:
        os._exit(1)


def _load(reader: str) -> None:
    """Load what a reader needs, as long as its files can be opened. Raises ``MissingDependencyError``."""
    if reader == "torchcodec":
        from videoxl.video.decoder.torchcodec import load_torchcodec

        load_torchcodec()


def _map_pictures(file_fd: int) -> mmap.mmap | None:
    """The file, if there is one, as memory: mapping takes a descriptor for a moment."""
    status = os.fstat(file_fd)
    return mmap.mmap(file_fd, 0, access=mmap.ACCESS_READ) if stat.S_ISREG(status.st_mode) and status.st_size else None


def _answer_all(
    channel: Channel, file_fd: int, mapped: mmap.mmap | None, measures: list[Measure], failure: Exception | None
) -> Never:
    """Answer commands. A newer command ends the one at work."""
    session: DecodeSession[VideoFrame] | DecodeSession[Pixels] | None = None
    pictures = PictureDesk(channel, mapped)
    while True:
        command, payload = channel.next_command()
        try:
            if isinstance(command, InspectCommand):
                channel.send(Confinement(id=command.id, measures=measures))
            elif failure is not None:
                raise failure
            elif isinstance(command, PictureCommand):
                lift_opening_limit("pyav")
                pictures.read(command, payload)
            elif isinstance(command, LiveCommand):
                LiveReader(channel, command).read(file_fd, partial(lift_opening_limit, "pyav"))
            elif isinstance(command, OpenCommand):
                lift = partial(lift_opening_limit, command.reader)
                session = open_session(channel, file_fd, command, bytes(payload), lift)
                session.describe()
            elif session is not None and isinstance(command, SubtitleCommand):
                session.read_subtitles(command)
            elif session is not None and isinstance(command, SoundCommand):
                session.read_sound(command)
            elif session is not None and isinstance(command, ClipCommand):
                session.write_clip(command)
            elif session is not None and isinstance(command, ReadCommand):
                session.read(command)
        except NewerCommandError:
            continue
        except Exception as error:  # noqa: BLE001  (a decoder that is fed garbage raises anything)
            channel.send(error_report(error, command.id))


class PictureDesk:
    """Reads pictures one by one. The process's own file stays open; a file that came as bytes does not."""

    def __init__(self, channel: Channel, mapped: mmap.mmap | None) -> None:
        self._channel = channel
        self._mapped = mapped
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
            delays=[] if command.number else file.delays,
            problems=file.problems,
        )
        self._channel.send(answer, np.ascontiguousarray(pixels_HWC).data.cast("B"))

    def _opened(self, payload: bytearray, limits: VideoLimits) -> PictureFile:
        if payload:
            return PictureFile.of_bytes(payload, limits)
        if self._own is None:
            self._own = PictureFile.of_bytes(self._mapped or b"", limits)
        return self._own


def limit_process(limits: VideoLimits, reader: str) -> list[Measure]:
    """Forbid core dumps and writing, bound processor time and, where torch is not needed, memory."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    seconds = _limit(resource.RLIMIT_CPU, limits.cpu_seconds)
    if seconds > 1:  # at the first limit comes a signal that says so, at the second the one that memory shortage sends
        resource.setrlimit(resource.RLIMIT_CPU, (seconds - 1, seconds))
    measures = [
        Measure("files_written", True, "none; no core dump either"),
        Measure("processor_time", True, f"{seconds:,} s"),
    ]
    if reader != "pyav":
        return [*measures, Measure("memory", False, f"not limited for {reader}, which brings torch")]
    most = _limit(resource.RLIMIT_AS, limits.memory_bytes)
    resource.setrlimit(resource.RLIMIT_AS, (OPENING_MEMORY, most))
    return [
        *measures,
        Measure("memory", True, f"{most / 2**30:.1f} GiB; {OPENING_MEMORY / 2**30:.1f} GiB while opening"),
    ]


def _limit(what: int, most: int) -> int:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))
    return most


def lift_opening_limit(reader: str) -> None:
    """Allow the memory that decoding may take, once the container is open."""
    if reader == "pyav":
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def error_report(error: Exception, command: int) -> ErrorReport:
    """An exception as an answer to a command, in one line."""
    if isinstance(error, VideoError):
        return ErrorReport(id=command, code=error.code, message=str(error)[:1000])
    if isinstance(error, MissingDependencyError):
        return ErrorReport(id=command, code="missing_dependency", message=str(error))
    if isinstance(error, RuntimeError) and "start new thread" in str(error):  # Python has no class for it
        return ErrorReport(id=command, code="system_resources", message=NO_THREADS)
    if isinstance(error, MemoryError):
        message = "needs more memory than allowed; raise VideoLimits(memory_bytes=...)"
        return ErrorReport(id=command, code="limits_size", message=message)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return ErrorReport(id=command, code="undecodable", message=f"could not be decoded ({text[:300]})")
