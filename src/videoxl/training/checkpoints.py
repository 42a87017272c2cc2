"""Folders of checkpoints that are complete or not there.

A checkpoint is written under a hidden name, forced to the disk, gets its marker last and takes its name in one step.
The marker lists every file with its size, so that a folder that was copied in part, or lost the end of a file, is
noticed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

Facts = dict[str, Any]
"""Facts about a run in the marker of a checkpoint, as JSON holds them: configuration, counts, step, processes."""
MARKER = "complete.json"
STAGING, DISCARDED = ".writing-", ".removing-"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Found:
    """The result of looking for checkpoints."""

    newest: Path | None
    """The newest complete checkpoint."""
    passed_over: tuple[str, ...]
    """Newer ones that are not complete, each with the reason."""

    @property
    def facts(self) -> Facts:
        """The facts in its marker."""
        return {} if self.newest is None else read_marker(self.newest)["facts"]


def publish(staged: Path, target: Path, facts: Facts) -> None:
    """Give a folder that is written its marker and its name. A folder of that name is replaced."""
    files = {str(p.relative_to(staged)): p.stat().st_size for p in sorted(staged.rglob("*")) if p.is_file()}
    for name in files:
        _sync(staged / name)
    marker = staged / MARKER
    marker.write_text(json.dumps({"facts": facts, "files": files}, indent=1), encoding="utf-8")
    _sync(marker)
    _sync(staged)
    if target.exists():
        discard(target)
    os.rename(staged, target)
    _sync(target.parent)


def incomplete(folder: Path) -> str | None:
    """Why a folder is not a whole checkpoint; None if it is."""
    try:
        files = read_marker(folder)["files"]
    except FileNotFoundError:
        return f"it has no {MARKER}: writing it was interrupted"
    except (ValueError, KeyError, TypeError):
        return f"its {MARKER} is damaged"
    for name, size in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} of {size:,} bytes"
    return None


class Marker(TypedDict):
    """The content of a checkpoint's marker."""

    facts: Facts
    files: dict[str, int]


def read_marker(folder: Path) -> Marker:
    """The marker of a checkpoint."""
    found: Marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    return found


def checkpoints(output: Path) -> list[Path]:
    """Folders named as checkpoints, newest first."""
    named = [(int(m[1]), p) for p in output.iterdir() if p.is_dir() and (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(named, reverse=True)]


def find(output: Path) -> Found:
    """Find the newest complete checkpoint, and the incomplete ones that are newer."""
    passed_over: list[str] = []
    for folder in checkpoints(output) if output.is_dir() else []:
        reason = incomplete(folder)
        if reason is None:
            return Found(folder, tuple(passed_over))
        passed_over.append(f"{folder.name}: {reason}")
    return Found(None, tuple(passed_over))


def newest_checkpoint(output: Path) -> str:
    """The newest checkpoint, as the end of an error message."""
    newest = find(output).newest if output.is_dir() else None
    return "there is no checkpoint yet" if newest is None else f"{newest.name} is intact: go on from it with --resume"


def rotate(output: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest complete checkpoints. Folders that are not complete do not count, and stay."""
    whole = [folder for folder in checkpoints(output) if incomplete(folder) is None]
    for folder in whole[keep:]:
        discard(folder)


def discard(folder: Path) -> None:
    """Remove a folder. It is renamed first, so that an incomplete folder never has the name."""
    hidden = folder.parent / f"{DISCARDED}{folder.name}"
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def remove_leftovers(output: Path) -> None:
    """Remove what a run was writing or removing when it died."""
    for path in output.glob(".*") if output.is_dir() else ():
        if path.name.startswith((STAGING, DISCARDED)):
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Force to the disk. Errors are raised for files, and ignored for folders, where some file systems cannot do it."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
