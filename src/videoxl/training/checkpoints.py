"""Folders of checkpoints that are whole or not there.

A checkpoint is written under a hidden name, forced to the disk, gets its marker last and takes its name in one step. A
folder that bears the name and is not whole all the same (it was copied in part, or a file was cut) is told by its
marker, which lists every file with its size.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "complete.json"
STAGING, DISCARDED = ".writing-", ".removing-"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Found:
    """What there is to go on from."""

    newest: Path | None
    """The newest complete checkpoint."""
    passed_over: tuple[str, ...]
    """Newer ones that are not complete, each with the reason."""

    @property
    def facts(self) -> dict[str, Any]:
        """What was noted when it was written."""
        return {} if self.newest is None else read_marker(self.newest)["facts"]


def publish(staged: Path, target: Path, facts: Mapping[str, Any]) -> None:
    """Give a folder that is written its marker and its name. What bore the name is replaced."""
    files = {str(p.relative_to(staged)): p.stat().st_size for p in sorted(staged.rglob("*")) if p.is_file()}
    for name in files:
        _sync(staged / name)
    marker = staged / MARKER
    marker.write_text(json.dumps({"facts": dict(facts), "files": files}, indent=1), encoding="utf-8")
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


def read_marker(folder: Path) -> dict[str, Any]:
    """The marker of a checkpoint."""
    found: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    return found


def checkpoints(output: Path) -> list[Path]:
    """Folders named as checkpoints, newest first."""
    named = [(int(m[1]), p) for p in output.iterdir() if p.is_dir() and (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(named, reverse=True)]


def find(output: Path) -> Found:
    """The newest complete checkpoint, and what was passed over on the way to it."""
    passed_over: list[str] = []
    for folder in checkpoints(output) if output.is_dir() else []:
        reason = incomplete(folder)
        if reason is None:
            return Found(folder, tuple(passed_over))
        passed_over.append(f"{folder.name}: {reason}")
    return Found(None, tuple(passed_over))


def rotate(output: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest complete checkpoints. Folders that are not complete do not count, and stay."""
    whole = [folder for folder in checkpoints(output) if incomplete(folder) is None]
    for folder in whole[keep:]:
        discard(folder)


def discard(folder: Path) -> None:
    """Take a folder's name away first, so that it is never half of what the name says."""
    hidden = folder.parent / f"{DISCARDED}{folder.name}"
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def remove_leftovers(output: Path) -> None:
    """Remove what a run that died was writing or removing."""
    for path in output.glob(".*") if output.is_dir() else ():
        if path.name.startswith((STAGING, DISCARDED)):
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    """Force to the disk. Of a file, an error says that it is not all there; some file systems cannot with a folder."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
