"""The decoder process: one file, one descriptor, hard limits, no torch.

It is forked by :mod:`videoxl.video.decoder.fork_server` and gets three descriptors: the file, commands, answers.
Damaged and hostile files can hang, crash or swell a decoder; here that ends a process, not the program.
"""

from __future__ import annotations

import resource
from functools import partial

from av.video.frame import VideoFrame

from videoxl.errors import MissingDependencyError, VideoError
from videoxl.video.decoder.channel import Channel, NewerCommandError
from videoxl.video.decoder.messages import ErrorReport, OpenCommand
from videoxl.video.decoder.session import DecodeSession, open_session
from videoxl.video.frames import Pixels
from videoxl.video.info import LEAST_MEMORY, VideoLimits

OPENING_MEMORY = LEAST_MEMORY
"""Address space, in bytes, until the container is open: an index that needs more is an attack."""


def serve(channel: Channel, file_fd: int) -> None:
    """Answer commands until the program goes away. A newer command ends the one at work."""
    session: DecodeSession[VideoFrame] | DecodeSession[Pixels] | None = None
    while True:
        command = channel.next_command()
        try:
            if isinstance(command, OpenCommand):
                limit_process(command.limits, command.reader)
                session = open_session(channel, file_fd, command, partial(lift_opening_limit, command.reader))
                session.describe()
            elif session is not None:
                session.read(command)
        except NewerCommandError:
            continue
        except Exception as error:  # noqa: BLE001  (a decoder that is fed garbage raises anything)
            channel.send(error_report(error, command.id))


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
