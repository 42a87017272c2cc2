"""A file of JSON lines that one process appends to, and that survives a kill.

A line is on the disk before :meth:`LineFile.append` returns. The file is locked while it is open: two writers would
both do all of the work.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

from videoxl.json_lines import JsonObject, Lines, Refusal, dump_line, split_lines, warn_of_cut


class LineFile:
    """The open file. Errors are made by the ``error`` that it was given."""

    def __init__(self, path: str | os.PathLike[str] | None, error: Refusal) -> None:
        """Open or create a file, and lock it. ``path``: None keeps nothing beyond the run.

        Raises ``error`` for what is no regular file, cannot be written, or is being written by another process.
        """
        self.path, self._error = Path(path or os.devnull), error
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if path and self.path.exists() and not self.path.is_file():
                raise error(f"{path} is no regular file: name another file")
            self._file = self._opened() if path else tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115
        except OSError as reason:
            raise error(f"{path} cannot be opened for writing ({reason.strerror}): name another file") from None
        self._locked()

    def _opened(self) -> IO[bytes]:
        # without a buffer: what could not be written is not tried again when the file is closed
        return open(self.path, "a+b", buffering=0)

    def _locked(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise self._error(
                f"{self.path} is being written by another process: wait for it, or name another file"
            ) from None
        except OSError:  # a file system without locks
            pass

    def content(self) -> bytes:
        """All bytes of the file."""
        self._file.seek(0)
        return self._file.read()

    def mend(self) -> Lines:
        """Remove what a killed writer left of a last line, with a warning. Returns the lines."""
        content = self.content()
        lines = split_lines(content, self.path)
        if lines.cut is not None:
            self._file.truncate(len(content) - len(lines.cut.data))
            warn_of_cut(lines.cut)
        elif content and not content.endswith(b"\n"):
            self._write(b"\n")
        return lines

    def append(self, value: object) -> bytes:
        """Write a value as a line, and return that line. Raises ``ValueError`` for a number that is not finite."""
        line = dump_line(value)
        self._write(line)
        return line

    def clear(self) -> None:
        """Remove everything from the file."""
        self._file.truncate(0)

    def _write(self, line: bytes) -> None:
        try:
            if self._file.write(line) != len(line):  # a disk that is almost full takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._error(f"{self.path} cannot be written ({error.strerror}); make room and resume") from error

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._file.close()


def differences(before: JsonObject, now: JsonObject) -> list[str]:
    """Return a phrase for every setting that changed: ``frames was [512], is now [1024]``."""
    missing = "not set"
    return [
        f"{name} was {before.get(name, missing)!r}, is now {now.get(name, missing)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, missing) != now.get(name, missing)
    ]
