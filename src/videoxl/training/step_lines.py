"""Files that a run writes a line to at a step: a run that is resumed goes on behind the lines of its checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from videoxl.errors import TrainingError
from videoxl.json_lines import read_json_lines


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
    replacement.write_bytes(b"".join(line + b"\n" for line in kept))
    os.replace(replacement, path)
