"""The exits of the command line. Everything it prints leaves by one of these, so that no text commands a terminal.

Names, titles, messages and answers come from files and models. What a terminal would obey in them is shown instead
(:func:`videoxl.text.visible`); JSON escapes it as JSON does. Only progress, which holds nothing of theirs, is drawn
elsewhere (:mod:`videoxl.inference.progress`, :mod:`videoxl.training.callbacks`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import sys
from collections.abc import Mapping

from videoxl.text import tell_text as tell_text  # an exit too
from videoxl.text import visible


def say(text: object, *, flush: bool = False) -> None:
    """Print text on stdout."""
    _write(f"{visible(str(text))}\n", flush)


def print_json(value: object) -> None:
    """Print JSON on stdout."""
    text = json.dumps(finite(value), indent=1, allow_nan=False)
    _write(text.replace("\x7f", "\\u007f") + "\n", flush=False)  # the one control character that json leaves


def print_json_line(value: object) -> None:
    """Print JSON on one line of stdout, at once."""
    text = json.dumps(finite(value), allow_nan=False)
    _write(text.replace("\x7f", "\\u007f") + "\n", flush=True)


def print_facts(facts: Mapping[str, object], as_json: bool) -> None:
    """Print named values on stdout, as JSON or a line for each."""
    if as_json:
        print_json(facts)
        return
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        if isinstance(value, (list, tuple)):
            value = "; ".join(str(item) for item in value) or "none"
        shown = "unknown" if value is None else visible(str(value), lines=False)
        say(f"{visible(key, lines=False):<{width}}  {shown}")


def tell(kind: str, message: object) -> None:
    """Print one line on stderr: ``note: ...``, ``warning: ...``."""
    tell_text(f"{kind}: {' '.join(str(message).split())}")


class _Log(logging.Handler):
    """Tells log records on stderr, with the seconds since the start."""

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        tell_text(f"{record.relativeCreated / 1000:8.2f} s {record.name}: {text}")


def log_to_stderr() -> None:
    """Tell what the package logs, until :func:`stop_logging`."""
    stop_logging()
    logger = logging.getLogger("videoxl")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Log())


def stop_logging() -> None:
    """Tell nothing more of what is logged."""
    logger = logging.getLogger("videoxl")
    for handler in [one for one in logger.handlers if isinstance(one, _Log)]:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def finite(value: object) -> object:
    """``value`` for JSON, which has no infinity and no NaN: such numbers become null."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class OutputError(OSError):
    """Standard output cannot be written to."""


def _write(text: str, flush: bool) -> None:
    try:
        print(text, end="", flush=flush)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.errno, error.strerror, "standard output") from error


def finish() -> None:
    """Write out what is still buffered for stdout, so that an error is told and not lost."""
    if sys.stdout is not None:
        _write("", flush=True)


def hold_standard_streams() -> None:
    """Open the standard streams that came closed, and let both outputs write any text.

    Else the next file that is opened gets the number of a closed one, and what a library prints lands in it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, os.O_RDWR)  # the lowest free number
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    if reconfigure := getattr(sys.stdin, "reconfigure", None):
        reconfigure(errors="surrogateescape")  # a question that is not UTF-8 is refused as such


def forget_stdout() -> None:
    """Let what is still buffered go nowhere: whoever read it has left, or it cannot be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
