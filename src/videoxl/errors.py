"""The few errors a caller may want to catch.

Every message says what came, what is allowed and what to do. ``code`` is a stable machine-readable word,
``exit_code`` is what the command line returns.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

VideoErrorCode = Literal[
    "not_found",
    "permission_denied",
    "not_a_regular_file",
    "empty_file",
    "not_a_video",
    "no_video_stream",
    "no_decoder",
    "undecodable",
    "unsupported_container",
    "limits_pixels",
    "limits_frames",
    "limits_duration",
    "limits_size",
    "decode_timeout",
    "decoder_died",
    "partial",
    "no_frames_selected",
    "bad_frames",
    "bad_subtitles",
    "bad_sound",
    "no_sound",
]


MemoryFileErrorCode = Literal[
    "memory_not_found",
    "memory_unreadable",
    "not_a_memory",
    "memory_corrupt",
    "memory_version",
    "memory_mismatch",
    "memory_pooled_only",
    "memory_not_written",
    "disk_full",
]


class VideoXLError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1
    code: str = "failed"


class VideoError(VideoXLError):
    """A video input cannot be used: unreadable, empty, not a video, over a limit, or gone while reading."""

    exit_code = 2
    code: VideoErrorCode

    def __init__(self, message: str, *, code: VideoErrorCode) -> None:
        super().__init__(message)
        self.code = code


class VideoNotFoundError(VideoError, FileNotFoundError):
    """There is no such file or folder."""

    def __init__(self, message: str) -> None:
        VideoError.__init__(self, message, code="not_found")

    def __str__(self) -> str:  # FileNotFoundError would print an errno tuple
        return str(self.args[0])


class SystemResourceError(VideoXLError, OSError):
    """The system gives no more descriptors, processes or memory. No input is to blame."""

    code = "system_resources"

    def __str__(self) -> str:  # OSError would print an errno tuple
        return str(self.args[0])


class CheckpointError(VideoXLError):
    """A model folder is incomplete, damaged, or not one of the known families."""

    exit_code = 2
    code = "checkpoint_invalid"


class MemoryFileError(VideoXLError):
    """A memory file cannot be read or written: missing, damaged, of another model or version, or the disk is full."""

    exit_code = 2
    code: MemoryFileErrorCode

    def __init__(self, message: str, *, code: MemoryFileErrorCode) -> None:
        super().__init__(message)
        self.code = code


class DoesNotFitError(VideoXLError):
    """A run was predicted not to fit in memory; the message says what would."""

    exit_code = 2
    code = "does_not_fit"


class TrainingDataError(VideoXLError):
    """Training data cannot be used: a file of records, one record of it, or too many of them."""

    exit_code = 2
    code = "training_data"


class TrainingError(VideoXLError):
    """A training run cannot go on: steps that are not finite, a checkpoint that could not be written or resumed."""

    code = "training_failed"


class TrainingInterruptedError(TrainingError):
    """A signal ended a training run, after a checkpoint had been saved."""

    code = "training_interrupted"

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class EvaluationError(VideoXLError):
    """An evaluation cannot begin or go on: a log made with other settings, annotations that cannot be read."""

    exit_code = 2
    code = "evaluation_failed"


class ManyVideosError(VideoXLError):
    """Many videos cannot be begun or gone on with: no videos, a table without the column, an output of another run."""

    exit_code = 2
    code = "many_videos"


class CatalogueError(VideoXLError):
    """An index of videos cannot be opened, written or searched: none there, of a newer version, in use, disk full."""

    exit_code = 2
    code = "catalogue"

    def __init__(self, message: str, *, code: str = "catalogue") -> None:
        super().__init__(message)
        self.code = code


class EndpointError(VideoXLError):
    """The endpoint of another model cannot be reached, refuses, or answers something else than an answer.

    ``code``: ``endpoint``, or ``endpoint_refused`` where the model did not want to answer one question.
    """

    def __init__(self, message: str, *, code: str = "endpoint") -> None:
        super().__init__(message)
        self.code = code


class LiveError(VideoXLError):
    """A stream cannot be watched: a folder in use or of another stream, a full disk, nothing read yet to ask."""

    exit_code = 2
    code = "live"

    def __init__(self, message: str, *, code: str = "live") -> None:
        super().__init__(message)
        self.code = code


class ConfigurationError(VideoXLError):
    """A configuration file cannot be read, or holds a name that nothing has."""

    exit_code = 2
    code = "configuration"


class MissingDependencyError(VideoXLError, ImportError):
    """An optional part is not installed; the message names the extra that brings it."""

    code = "missing_dependency"


class PartialVideoWarning(UserWarning):
    """Only part of a video could be read; the message says how much."""


def shortage(error: OSError) -> str | None:
    """What the system is short of, and what to do, if that is what an error says."""
    if error.errno == errno.EMFILE:
        import resource  # not on every system

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            f"too many open files: this program may have {most}, and an open video takes at least 4; "
            "close some, or raise the limit (ulimit -n)"
        )
    return _SHORTAGES.get(error.errno or 0)


@contextmanager
def shortages_named(name: str) -> Iterator[None]:
    """Turn errors that say what the system is short of into :class:`SystemResourceError`. ``name``: of the input."""
    try:
        yield
    except OSError as error:
        if lacking := shortage(error):
            raise SystemResourceError(f"{name}: cannot be opened: {lacking}") from None
        raise


_SHORTAGES = {
    errno.ENFILE: "too many files are open on this system: end programs, or raise its limit (fs.file-max)",
    errno.ENOMEM: "the system has no memory left: free some",
    errno.EAGAIN: "no more processes can be started: end some, or raise the limit (ulimit -u, or the container's)",
}


def closest(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``name`` may have been meant to be, if any is close. Case does not count."""
    plain = {one.lower(): one for one in known}
    return next((plain[found] for found in difflib.get_close_matches(name.lower(), [*plain], n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean chunked?"``, or nothing where none of ``known`` is close to ``name``."""
    close = closest(name, known)
    return f"; did you mean {close}?" if close else ""
