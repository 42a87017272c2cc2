"""Which decoders there are, and which one is used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable

from videoxl.errors import MissingDependencyError

ENVIRONMENT = "VIDEOXL_VIDEO_READER"


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
"""Name -> function that says what the reader is, or raises ``MissingDependencyError``."""


def choose_reader(name: str = "auto") -> tuple[str, str]:
    """(name, reason). ``auto`` is PyAV unless the environment variable ``VIDEOXL_VIDEO_READER`` names another."""
    origin = "asked for"
    if name == "auto":
        name, origin = os.environ.get(ENVIRONMENT, "auto"), f"set by {ENVIRONMENT}"
    if name == "auto":
        name, origin = "pyav", "default"
    if name not in READERS:
        raise ValueError(f"unknown reader {name!r}; available: auto, {', '.join(READERS)}")
    return name, f"{origin}; {READERS[name]()}"
