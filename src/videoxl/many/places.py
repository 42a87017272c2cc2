"""Where videos, tables, memories and rows lie: on this machine, or in a storage (``s3://...``)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from videoxl.errors import ManyVideosError, MemoryFileError, VideoError
from videoxl.memory.file.format import MemoryFile
from videoxl.storage import StoragePath, copied, local_path, protocol_of
from videoxl.video.url import is_url, local_copy

Place = Path | StoragePath
"""Both have ``name``, ``suffix``, ``/``, ``with_name`` and ``exists()``."""


def is_stored(path: str) -> bool:
    """Whether a path names something in a storage. A web address does not."""
    return protocol_of(path) is not None and not is_url(path)


def place_of(path: str | os.PathLike[str] | StoragePath) -> Place:
    """The place that a path or URL names. Raises :class:`ManyVideosError` for a web address, which is only read."""
    if isinstance(path, StoragePath):
        return path
    text = os.fspath(path)
    if is_url(text):
        raise ManyVideosError(f"{text:.200} is a web address, to which nothing can be written: give a path or s3://...")
    return StoragePath(text, ManyVideosError) if is_stored(text) else Path(local_path(text))


@contextlib.contextmanager
def here(video: str, *, allow_url: bool = False) -> Iterator[str]:
    """The path of a video on this machine: its own, or of a copy, which is removed after the block."""
    if not is_stored(video):
        with local_copy(local_path(video) if not is_url(video) else video, allowed=allow_url) as path:
            yield path
        return
    with copied(stored_video(video)) as copy:
        yield str(copy)


def stored_video(video: str) -> StoragePath:
    """A video in a storage. What cannot be read there is an error of that video; the run goes on."""
    return StoragePath(video, partial(VideoError, code="not_found"))


def is_whole(memory: str, file_bytes: int | None = None) -> bool:
    """Whether a memory file is there and all of its checksums are right. ``file_bytes``: how long it must be."""
    try:
        if not is_stored(memory):
            MemoryFile(memory).verify()
            return True
        stored = StoragePath(memory, ManyVideosError)
        if stored.kind() != "file" or (file_bytes is not None and stored.size() != file_bytes):
            return False
        with copied(stored) as copy:
            MemoryFile(copy).verify()
        return True
    except MemoryFileError:
        return False
