"""Files that a run writes a line to at a step: a run that is resumed goes on behind the lines of its checkpoint."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from videoxl.errors import TrainingError
from videoxl.json_lines import dump_line, read_json_lines


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within, a file is written. Raises :class:`TrainingError` that names it when that fails, on a full disk, say."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path} was not written ({error.strerror or error}): make room, or see that it may be written to; then "
            "resume"
        ) from error


def append_line(path: Path, entry: Mapping[str, object]) -> None:
    """Append an entry in one piece, so that lines of several processes do not mix.

    Raises :class:`TrainingError` when it cannot be written whole.
    """
    line = dump_line(entry)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if os.write(descriptor, line) < len(line):  # a disk that is almost full takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)


def keep_until(step: int, path: Path) -> None:
    """Take the lines written after ``step`` out of a file, and make the file if there is none.

    A last line that was cut was written after the checkpoint, and comes again. Raises :class:`TrainingError` for any
    other line that is damaged.
    """
    kept: list[bytes] = []
    for line, entry in read_json_lines(path, TrainingError, drop_cut=True) if path.is_file() else ():
        at = entry.get("step")
        if isinstance(at, bool) or not isinstance(at, int | float):
            raise TrainingError(f"{line.place} names no step: remove that line and resume")
        if at <= step:
            kept.append(line.data)
    replacement = path.with_suffix(".tmp")
    with naming(path):
        replacement.write_bytes(b"".join(line + b"\n" for line in kept))
        os.replace(replacement, path)
