"""Lines in a storage, to which nothing can be appended: each is a small file, until the end of the run joins them.

A killed run leaves the small files. The next one reads them behind the file, and goes on.
"""

from __future__ import annotations

import secrets
import time

from videoxl.json_lines import Lines, dump_line, split_lines
from videoxl.storage import StoragePath

PARTS = ".parts"
MOST_PARTS = 256
"""So many small files are put together to one."""


class StoredLines:
    """Like :class:`~videoxl.line_file.LineFile`, in a storage. Nothing locks it."""

    def __init__(self, path: StoragePath) -> None:
        """Raises the error of ``path`` where nothing can be written."""
        self.path = path
        self._folder = path.with_name(f"{path.name}{PARTS}")
        self._mine: list[tuple[StoragePath, bytes]] = []
        path.parent.check_writable()

    def content(self) -> bytes:
        """All lines."""
        whole = self.path.read_bytes() if self.path.exists() else b""
        return b"".join(_ended(piece) for piece in (whole, *(part.read_bytes() for part in self._parts())))

    def _parts(self) -> list[StoragePath]:
        return self._folder.files("*.jsonl")

    def is_empty(self) -> bool:
        """Whether no run has written anything."""
        return not self.path.exists() and not self._parts()

    def mend(self) -> Lines:
        """The lines. A file is there whole or not at all, so that none is cut."""
        return split_lines(self.content(), str(self.path))

    def append(self, value: object) -> bytes:
        """Write a value as a line, and return that line."""
        line = dump_line(value)
        self._write(line)
        if len(self._mine) >= MOST_PARTS:
            small, self._mine = self._mine, []
            self._write(b"".join(content for _, content in small))
            for part, _ in small:
                part.remove()
        return line

    def _write(self, content: bytes) -> None:
        part = self._folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.jsonl"
        part.write(content)
        self._mine.append((part, content))

    def rewrite(self, content: bytes) -> None:
        """Leave only this content. A kill leaves what was, or both: whoever reads takes each row once."""
        parts = self._parts()
        self.path.write(content)
        for part in parts:
            part.remove()
        self._mine = []

    def close(self) -> None:
        """Nothing is held open."""


def _ended(content: bytes) -> bytes:
    return content if not content or content.endswith(b"\n") else content + b"\n"
