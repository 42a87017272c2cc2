"""Replace a file whole or not at all.

The new content goes to a temporary file in the same folder, is synced to disk, and replaces the old file in one step.
Whenever the process dies, one of the two is there, complete. A process that has the old file open keeps reading it.

A writer locks its temporary file. The kernel drops the lock when the writer dies, however it dies. So an unlocked
temporary file is a leftover, which the next save to the same path removes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from videoxl.errors import MemoryFileError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors for no space on the disk, in the quota, or under the limit of file sizes."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], size: int) -> Iterator[int]:
    """Open a descriptor for ``size`` bytes. They replace ``path`` after the block; an error leaves ``path`` as it was.

    The file mode follows the umask. Raises :class:`MemoryFileError` with the code ``disk_full`` or
    ``memory_not_written``.
    """
    target = Path(os.path.realpath(path))  # the target of a link is replaced, not the link
    if target.is_dir():
        raise MemoryFileError(f"{path} is a folder: give the name of a file", code="memory_not_written")
    if target.exists() and not target.is_file():  # a device, a pipe, a socket: replacing it would remove it
        raise MemoryFileError(f"{path} is not a regular file: give another name", code="memory_not_written")
    try:
        remove_leftovers(target)
        _require_space(target.parent, size)
        descriptor, temporary = _create(target)
        try:
            yield descriptor
            os.fsync(descriptor)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)
        _sync_folder(target.parent)
    except OSError as error:
        raise _explained(error, path, target.parent, size) from error


def write_at(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def remove_leftovers(target: Path) -> None:
    """Remove temporary files of dead writers of ``target``."""
    for name in os.listdir(target.parent):
        if not _pattern(target).fullmatch(name):
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, not ours, or held by a writer at work
            descriptor = os.open(target.parent / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(target.parent / name)
            finally:
                os.close(descriptor)


def _stem(target: Path) -> str:
    """Shorten the name for any file system. Two names with the same stem remove each other's leftovers, no more."""
    return f".{os.fsencode(target.name)[:200].decode(errors='ignore')}."


def _pattern(target: Path) -> re.Pattern[str]:
    return re.compile(re.escape(_stem(target)) + r"[0-9a-f]{16}\.tmp")


def _create(target: Path) -> tuple[int, Path]:
    """Create a locked file beside ``target``."""
    while True:
        temporary = target.parent / f"{_stem(target)}{secrets.token_hex(8)}.tmp"
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _locked(descriptor):
            return descriptor, temporary
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock a new file. False: another process removed it as a leftover before it was locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where leftovers are never removed
        return True
    return os.fstat(descriptor).st_nlink > 0


def _require_space(folder: Path, size: int) -> None:
    """Fail at once where the disk would be full after minutes of writing; the old file stays meanwhile."""
    found = os.statvfs(folder)
    if found.f_blocks and found.f_bavail * found.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sync_folder(folder: Path) -> None:
    """Sync the new name to disk; some file systems cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explained(error: OSError, path: str | os.PathLike[str], folder: Path, size: int) -> MemoryFileError:
    what = f"{path} was not written ({error.strerror}); what was there before is untouched"
    if error.errno not in FULL:
        return MemoryFileError(f"{what}: check that {folder} exists and may be written to", code="memory_not_written")
    free = ""
    with contextlib.suppress(OSError):
        found = os.statvfs(folder)
        free = f", {found.f_bavail * found.f_frsize / 1e6:,.1f} MB are free"
    hint = "make room, or save with dtype='int8' or level='pooled'"
    return MemoryFileError(f"{what}: it needs {size / 1e6:,.1f} MB{free}; {hint}", code="disk_full")
