"""Files in storage that fsspec knows: ``s3://...``, ``gs://...``, ``memory://...``.

A file appears under its name whole or not at all: it is uploaded beside it, and then moved.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import posixpath
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videoxl.errors import VideoXLError
from videoxl.json_lines import Refusal
from videoxl.text import visible

PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
CHUNK = 1 << 22
COPIES = "videoxl-copy-"
"""Begin of the names of folders with copies, in the folder of temporary files."""
COPY_BEGINS = 60.0
"""Seconds within which a folder of copies is locked after it was made, at most."""
TEMPORARY = ".tmp"
WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "oci", "oss", "hf", "memory")
"""Storages in which a folder is a begin of names. Making one there would make a bucket of a mistyped name."""


def protocol_of(path: str) -> str | None:
    """``s3`` of ``s3://...``; None for a path of this machine, ``file://`` too."""
    found = PROTOCOL.match(path)
    return None if found is None or found[1].lower() in ("file", "local") else found[1].lower()


def local_path(path: str) -> str:
    """A path of this machine without its ``file://``."""
    found = PROTOCOL.match(path)
    return path if found is None else path[found.end() :].removeprefix("localhost")


@dataclass(frozen=True)
class StoragePath:
    """A file or folder in a storage. Every fault is an ``error`` that names it, in one line."""

    url: str
    error: Refusal = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return posixpath.basename(self.url.rstrip("/"))

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> StoragePath:
        return StoragePath(posixpath.dirname(self.url.rstrip("/")), self.error)

    def __truediv__(self, name: str) -> StoragePath:
        return StoragePath(f"{self.url.rstrip('/')}/{name}", self.error)

    def with_name(self, name: str) -> StoragePath:
        return self.parent / name

    def exists(self) -> bool:
        return self.kind() is not None

    def kind(self) -> str | None:
        """``file``, ``directory``, or None where there is neither."""
        with self._system() as (system, inner):
            try:
                return str(system.info(inner)["type"])
            except FileNotFoundError:
                return None

    def size(self) -> int:
        """Bytes of the file."""
        with self._system() as (system, inner):
            return int(system.info(inner)["size"] or 0)

    def files(self, pattern: str = "*") -> list[StoragePath]:
        """The files in this folder with names like ``pattern``, sorted; none where it does not exist."""
        return (self / pattern).matches()

    def matches(self) -> list[StoragePath]:
        """The files that this pattern matches, sorted."""
        protocol = PROTOCOL.match(self.url)
        with self._system() as (system, inner):
            try:
                found = system.glob(inner, detail=True)
            except FileNotFoundError:  # of the bucket, or of a folder
                return []
        paths = sorted(path for path, about in found.items() if about["type"] == "file")
        return [StoragePath(f"{protocol[0] if protocol else ''}{path.lstrip('/')}", self.error) for path in paths]

    def read_bytes(self) -> bytes:
        """All bytes."""
        with self._system() as (system, inner):
            content: bytes = system.cat_file(inner)
            return content

    def ends(self, most: int) -> tuple[int, bytes, bytes]:
        """Size of the file, and its first and last ``most`` bytes."""
        size = self.size()
        with self._system() as (system, inner):
            return size, system.cat_file(inner, 0, min(size, most)), system.cat_file(inner, max(0, size - most), size)

    def download(self, target: Path, between: Callable[[int, int], None] | None = None) -> None:
        """Copy the file to ``target``. ``between(done, total)`` is called for every few MB."""
        size = self.size()
        free = shutil.disk_usage(target.parent).free
        if size > free:
            raise self.error(
                f"{self.url} has {size / 1e6:,.1f} MB, and {target.parent} has {free / 1e6:,.1f} MB free: make room, "
                "or set TMPDIR to a larger disk"
            )
        done = 0
        with open(target, "wb") as file:
            for data in self._chunks():
                file.write(data)
                done += len(data)
                if between is not None:
                    between(done, size)
        if done != size:
            raise self.error(f"{self.url} ended after {done} of {size} bytes; try again")

    def _chunks(self) -> Iterator[bytes]:
        with self._system() as (system, inner):
            source = system.open(inner, "rb")
        with source:
            while True:
                with told(self.url, self.error):
                    data = source.read(CHUNK)
                if not data:
                    return
                yield data

    def write(self, content: bytes) -> None:
        """Replace the file by these bytes."""

        def put(temporary: StoragePath) -> None:
            with temporary._system(writes=True) as (system, inner):
                system.pipe_file(inner, content)

        self._replace(put, len(content))

    def upload(self, source: Path, between: Callable[[int, int], None] | None = None) -> None:
        """Replace the file by one of this machine. ``between(done, total)`` is called for every few MB."""
        total = source.stat().st_size

        def put(temporary: StoragePath) -> None:
            done = 0
            with temporary._system(writes=True) as (system, inner):
                out = system.open(inner, "wb")
            with open(source, "rb") as file:
                while data := file.read(CHUNK):
                    with told(self.url, self.error, writes=True):
                        out.write(data)
                    done += len(data)
                    if between is not None:
                        between(done, total)
            with told(self.url, self.error, writes=True):
                out.close()

        self._replace(put, total)

    def _replace(self, put: Callable[[StoragePath], None], size: int) -> None:
        temporary = self.with_name(f".{self.name}.{secrets.token_hex(8)}{TEMPORARY}")
        if protocol_of(self.url) not in WITHOUT_FOLDERS:
            with self._system(writes=True) as (system, inner):
                system.makedirs(posixpath.dirname(inner), exist_ok=True)
        try:
            put(temporary)
            if (there := temporary.size()) != size:
                raise self.error(f"{self.url} was not written: {there} of {size} bytes arrived; try again")
            with self._system(writes=True) as (system, inner):
                system.mv(temporary._inner(), inner)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is told
                temporary.remove()
            raise

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with self._system(writes=True) as (system, inner), contextlib.suppress(FileNotFoundError):
            system.rm_file(inner)

    def remove_leftovers(self) -> None:
        """Remove what killed writers left in this folder. Nobody may be writing there."""
        for leftover in self.files(f".*{TEMPORARY}"):
            leftover.remove()

    def check_writable(self) -> None:
        """Raise where nothing can be written in this folder."""
        probe = self / f".videoxl.{secrets.token_hex(8)}{TEMPORARY}"
        probe.write(b"")
        probe.remove()

    def _inner(self) -> str:
        return str(filesystem(self.url, self.error)[1])

    @contextlib.contextmanager
    def _system(self, *, writes: bool = False) -> Iterator[tuple[Any, str]]:
        system, inner = filesystem(self.url, self.error)
        system.invalidate_cache()  # other machines write there too
        with told(self.url, self.error, writes=writes):
            yield system, inner


def filesystem(url: str, error: Refusal) -> tuple[Any, str]:
    """The storage of a URL, and the path in it. Raises ``error``, where a package is missing too."""
    if "::" in url:
        raise error(f"{url:.200} joins two kinds of storage (::): copy the file first")
    import fsspec

    try:
        system, inner = fsspec.core.url_to_fs(url)
    except ImportError as reason:
        raise error(f"{url:.200} needs a package that is not installed: {one_line(reason)}") from reason
    except Exception as reason:
        if protocol_of(url) not in fsspec.available_protocols():
            raise error(
                f"{url:.200} cannot be opened: {protocol_of(url)}:// is no storage; there are {_known()}"
            ) from reason
        raise error(f"{url:.200} cannot be opened: {one_line(reason)}") from reason
    return system, inner


def _known() -> str:
    import fsspec

    usual = ("s3", "gs", "az", "hf", "sftp", "file")
    return ", ".join(f"{name}://" for name in usual if name in fsspec.available_protocols())


@contextlib.contextmanager
def told(url: str, error: Refusal, *, writes: bool = False) -> Iterator[None]:
    """Faults of a storage, named. Each storage has errors of its own, for keys that are missing or refused."""
    try:
        yield
    except VideoXLError:
        raise
    except FileNotFoundError as reason:
        what = "no such bucket or folder" if writes else "no such file"
        raise error(f"{url:.200}: {what}; check the name") from reason
    except Exception as reason:
        name = type(reason).__name__
        hint = ""
        if isinstance(reason, PermissionError) or "redential" in name or "Auth" in name:
            hint = "; check the keys of this storage, which its own variables or files hold, and what they may do"
        what = "written" if writes else "read"
        raise error(f"{url:.200} cannot be {what} ({name}: {one_line(reason)}){hint}") from reason


def one_line(reason: BaseException) -> str:
    """What an error of somebody else's says."""
    return visible(" ".join(str(reason).split()), lines=False)[:200]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed after the block. What killed processes left of theirs is removed first."""
    _remove_dead_copies()
    with tempfile.TemporaryDirectory(prefix=COPIES) as folder, _held(folder):
        yield Path(folder)


@contextlib.contextmanager
def copied(path: StoragePath) -> Iterator[Path]:
    """A copy of a file, which is removed after the block."""
    with scratch() as folder:
        target = folder / (path.name or "file")
        path.download(target)
        yield target


@contextlib.contextmanager
def _held(folder: str) -> Iterator[bool]:
    """Lock a folder. Yields whether nobody else holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_dead_copies() -> None:
    for folder in glob.glob(f"{glob.escape(tempfile.gettempdir())}/{COPIES}*"):
        with contextlib.suppress(OSError):  # another process removed it
            if time.time() - os.stat(folder).st_mtime > COPY_BEGINS:
                with _held(folder) as alone:
                    if alone:
                        shutil.rmtree(folder)
