"""Where files of records, pictures and videos lie: on this machine, or in storage that fsspec knows (``s3://...``).

Files of other storage are copied into a local cache of limited size, whole or not at all. A file that somebody reads
stays there. Every process of a machine may use one cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import posixpath
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, Any

from videoxl.errors import MemoryFileError, TrainingDataError
from videoxl.hf.content import local_source
from videoxl.memory.file.atomic import replacing, write_at
from videoxl.storage import filesystem, local_path, protocol_of, told
from videoxl.training.data.records import InPlace, Media, Opener, local_media, plain_name
from videoxl.video.url import is_url, local_copy

CHUNK = 1 << 22
COUNTED_AGAIN = 0.01
"""The size of the cache is counted anew when a process has added this share of its limit."""


class Storage:
    """Opens files wherever they lie."""

    def __init__(self, folder: str | os.PathLike[str], limit_gb: float = 50.0, *, allow_url: bool = False) -> None:
        """``folder``: of the cache. ``allow_url``: also files at plain ``https`` addresses."""
        self.cache = MediaCache(folder, int(limit_gb * 1e9))
        self.allow_url = allow_url
        self._versions: dict[str, str] = {}

    def check(self, path: str) -> None:
        """Raise :class:`TrainingDataError` where a path lies in storage that cannot be opened."""
        protocol = protocol_of(path)
        if protocol is None:
            return
        if is_url(path):
            if not self.allow_url:
                raise TrainingDataError(
                    f"{path:.200} is a URL: set data.allow_url to download it, or download it first and give the path"
                )
            return
        _filesystem(path)

    def opener(self, path: str) -> Opener:
        """What gives the local path of a file during a block."""
        if protocol_of(path) is None:
            return InPlace(local_path(path))
        return partial(self._local, path)

    def media(self, name: str, folder: str) -> Media:
        """A picture or video that a record names. A record reaches no storage but that of its folder.

        Raises :class:`TrainingDataError` for a name that leads elsewhere.
        """
        own, root = protocol_of(name), protocol_of(folder)
        if own is None and (root is None or os.path.isabs(local_path(name))):
            return local_media(_find_file(name, local_path(folder)))
        if is_url(name) and own != root and not self.allow_url:
            raise TrainingDataError(
                f"{name[:200]!r} is a URL, and URLs are not opened: download it, or set data.allow_url to have it done"
            )
        if own is not None and own != root and not is_url(name):
            raise TrainingDataError(
                f"{name[:200]!r} lies in other storage than media_folder={folder!r}: set media_folder to that storage"
            )
        parts = name.split("/")
        if ".." in parts or "::" in name:
            raise TrainingDataError(f"{name[:200]!r} leads out of its folder: name a file within it")
        url = name if own is not None else f"{folder.rstrip('/')}/{name}"
        return Media(url, self.opener(url))

    def matches(self, pattern: str) -> list[str]:
        """Paths or URLs that a pattern matches, sorted; a path without one is itself."""
        if protocol_of(pattern) is None:
            path = local_path(pattern)
            if not glob.has_magic(path) or os.path.lexists(path):
                return [path]
            return sorted(glob.iglob(path, recursive=True))
        if is_url(pattern) or not glob.has_magic(pattern):
            return [pattern]
        system, inner = _filesystem(pattern)
        with _told(pattern):
            return sorted(f"{protocol_of(pattern)}://{found.lstrip('/')}" for found in system.glob(inner))

    def is_folder(self, path: str) -> bool:
        if protocol_of(path) is None:
            return os.path.isdir(path)
        if is_url(path):
            return False
        system, inner = _filesystem(path)
        with _told(path):
            return bool(system.isdir(inner))

    def exists(self, path: str) -> bool:
        if protocol_of(path) is None:
            return os.path.exists(path)
        system, inner = _filesystem(path)
        with _told(path):
            return bool(system.exists(inner))

    @contextlib.contextmanager
    def _local(self, url: str) -> Iterator[str]:
        name = posixpath.basename(url.partition("?")[0])
        with self.cache.local(f"{url}|{self._version(url)}", name, partial(self._copy, url)) as path:
            yield path

    def _version(self, url: str) -> str:
        """Tells versions of a file apart; looked up once in a run. An ``https`` address has none."""
        if is_url(url):
            return ""
        if url not in self._versions:
            system, inner = _filesystem(url)
            with _told(url):
                self._versions[url] = f"{system.size(inner)}|{system.checksum(inner)}"
        return self._versions[url]

    def _copy(self, url: str, most: int) -> Iterator[bytes]:
        """The bytes of a file, at most so many."""
        if is_url(url):
            with local_copy(url, allowed=self.allow_url) as path, open(path, "rb") as file:
                yield from _chunks(url, file, most)
            return
        system, inner = _filesystem(url)
        with _told(url), system.open(inner, "rb") as file:
            yield from _chunks(url, file, most)


class MediaCache:
    """A folder of copies, at most ``limit`` bytes of them; the longest unused go first."""

    def __init__(self, folder: str | os.PathLike[str], limit: int) -> None:
        self.folder, self.limit = Path(folder), limit
        self._added = limit  # so that the first copy counts

    @contextlib.contextmanager
    def local(self, key: str, name: str, copy: Any) -> Iterator[str]:
        """The path of a copy, which stays during the block. ``copy(most)`` gives its bytes where there is none.

        Raises what ``copy`` raises, and :class:`TrainingDataError` where the copy cannot be written.
        """
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        path = self.folder / digest[:40] / plain_name(name)
        held = _hold(path)
        while held is None:
            with self._alone(digest[:2]):
                held = _hold(path)  # another process may have made it
                if held is None:
                    self._write(path, copy)
                    held = _hold(path)
        try:
            yield str(path)
        finally:
            os.close(held)

    def _write(self, path: Path, copy: Any) -> None:
        size = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, 0) as descriptor:
                for data in copy(self.limit):
                    write_at(descriptor, data, size)
                    size += len(data)
        except (OSError, MemoryFileError) as error:
            raise TrainingDataError(
                f"the cache {self.folder} cannot be written ({error.__cause__ or error}): make room there, or set "
                "data.media_cache to another folder"
            ) from error
        self._added += size
        if self._added > COUNTED_AGAIN * self.limit:
            self._added = 0
            with self._alone("size"):
                self._shrink(path)

    def _shrink(self, newest: Path) -> None:
        """Remove the longest unused files that nobody holds, until the limit is kept."""
        found = []
        for file in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                if file.parent.name != "locks":
                    status = file.stat()
                    found.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if total <= self.limit:
                return
            if file != newest and _removed(file):
                total -= size

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """No other process in the same block."""
        folder = self.folder / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise TrainingDataError(
                f"the cache {self.folder} cannot be written ({error.strerror}): set data.media_cache to another folder"
            ) from error
        try:
            with contextlib.suppress(OSError):  # a file system without locks: at worst something is copied twice
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _find_file(name: str, folder: str) -> str:
    """The path of a name relative to ``folder``; ``file://`` becomes a path."""
    path = os.path.join(folder, name)
    return path if os.path.lexists(path) else os.path.join(folder, str(local_source(name, "the record")))


def _hold(path: Path) -> int | None:
    """Keep a file from being removed until the descriptor is closed; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if os.fstat(descriptor).st_nlink == 0:  # removed meanwhile
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return descriptor


def _removed(file: Path) -> bool:
    """Remove a file that nobody holds."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(file)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):
        file.parent.rmdir()
    return True


def _chunks(url: str, file: IO[bytes], most: int) -> Iterator[bytes]:
    taken = 0
    while data := file.read(CHUNK):
        taken += len(data)
        if taken > most:
            raise TrainingDataError(
                f"{url:.200} is larger than the cache, {most / 1e9:g} GB: raise data.media_cache_gb"
            )
        yield data


def _filesystem(url: str) -> tuple[Any, str]:
    """The storage of a URL, and the path in it. Raises :class:`TrainingDataError`, where a package is missing too."""
    return filesystem(url, TrainingDataError)


def _told(url: str) -> AbstractContextManager[None]:
    """Faults of a storage, named."""
    return told(url, TrainingDataError)
