"""How the command line says what went wrong: one line, and the exit status."""

from __future__ import annotations

import errno
from typing import Protocol, cast

import typer

from videoxl.errors import VideoXLError

EXPECTED = (VideoXLError, ValueError, FileExistsError)
"""Errors whose message was written for users."""
LAST_RESORT = (OSError, MemoryError, RuntimeError, AssertionError)
"""Errors of the machine and of libraries. Torch raises an AssertionError where it was built without CUDA."""
SEE_WHERE = "videoxl --debug ... shows where this comes from"


class UsageError(Protocol):
    """What typer raises for arguments it cannot read. Typer does not export the class; its subclasses it does."""

    exit_code: int
    ctx: typer.Context | None

    def format_message(self) -> str: ...

    def show(self) -> None: ...


TEXTS = ("question", "event", "query")
"""Arguments that hold what somebody wrote."""
USAGE_ERROR = cast(type[Exception], typer.BadParameter.__base__)


def usage_line(error: UsageError) -> str | None:
    """What a usage error says, in one line; None for the one that is raised to show the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return None
    message = _short(" ".join(error.format_message().split()).rstrip("."), most=300)
    command = error.ctx.command_path if error.ctx else "videoxl"
    if _may_be_text(error):
        example = command if command.partition(" ")[2] else "videoxl ask"
        message += f"; put -- before a text that begins with '-': {example} film.mp4 -- '-5 degrees, why?'"
    return f"{message}; see {command} --help"


def _may_be_text(error: UsageError) -> bool:
    """Whether a text that begins with a dash may have been read as options: no option has one dash or a space.

    ``-mother?`` is read as ``-m other?``, and then the text is missing.
    """
    option = getattr(error, "option_name", "")
    missing = type(error).__name__ == "MissingParameter" and getattr(getattr(error, "param", None), "name", "") in TEXTS
    return missing or bool(option and (not option.startswith("--") or " " in option))


def is_bug(error: BaseException) -> bool:
    """Whether an error is a fault of this package: a failed assertion that is not torch's about a device."""
    return isinstance(error, AssertionError) and not _is_device(error)


def exit_status(error: BaseException) -> int:
    """2 for what the user can mend: input, settings, paths, devices. 1 for a machine or a library that failed."""
    if isinstance(error, EXPECTED):
        return int(getattr(error, "exit_code", 2))
    return 2 if isinstance(error, OSError) or _is_device(error) else 1


def error_line(error: BaseException) -> str:
    """What an error says, in one line, with advice where the error itself gives none."""
    text = " ".join(str(error).split())
    if isinstance(error, UnicodeError):
        return f"there is text that cannot be read or written ({_short(text)}): save it as UTF-8"
    if isinstance(error, EXPECTED):
        return text
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate" in text.lower():
        return f"out of memory ({_short(text)}): read fewer frames (--max-frames), or ask videoxl plan what would fit"
    if _is_device(error):
        return f"the device cannot be used ({_short(text)}): give --device cpu, or auto"
    if isinstance(error, OSError):
        return _of_the_system(error, text)
    return f"{type(error).__name__}: {_short(text)}; {SEE_WHERE}"


def _of_the_system(error: OSError, text: str) -> str:
    advice = {
        errno.ENOSPC: "free some space, or write to another disk",
        errno.EDQUOT: "free some space, or write to another disk",
        errno.EACCES: "check its permissions",
        errno.EPERM: "check its permissions",
        errno.EROFS: "write to another place",
        errno.ENOENT: "check the path",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }.get(error.errno or 0, SEE_WHERE)
    what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else _short(text)
    return f"{what or type(error).__name__}; {advice}"


def _is_device(error: BaseException) -> bool:
    """Whether torch says that a device is unknown, missing or not compiled in."""
    text = str(error)
    signs = ("NVIDIA driver", "not compiled with CUDA", "not linked with", "device string", "invalid device ordinal")
    return isinstance(error, (RuntimeError, AssertionError)) and any(sign in text for sign in signs)


def _short(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."
