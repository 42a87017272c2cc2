"""Annotation files of benchmarks: read whole, told apart by their digest, complained about by line."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from videoxl.errors import EvaluationError

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def read_text(path: str | os.PathLike[str]) -> str:
    """Raises :class:`EvaluationError` when it cannot be read as UTF-8 text."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise EvaluationError(f"annotations {path} cannot be read: {reason}") from None


def parse_json(text: str, path: str | os.PathLike[str]) -> Any:
    """Raises :class:`EvaluationError` for what is no JSON."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise EvaluationError(f"annotations {path} are no JSON: {error}") from None


def digest(path: str | os.PathLike[str]) -> str:
    """sha256 of a file, by which a run that is resumed knows its annotations."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def find_video(folder: str | os.PathLike[str], name: str) -> str:
    """The file in ``folder`` that annotations call ``name``: with or without its own folder and its ending.

    One that is not there comes back as it would be called, and fails when it is opened.
    """
    base = Path(name.replace("\\", "/")).name
    stems = [base] if base.lower().endswith(ENDINGS) else [base + ending for ending in ENDINGS]
    candidates = [Path(folder) / name, *(Path(folder) / stem for stem in stems)]
    inside = [path for path in candidates if path.is_file() and Path(folder).resolve() in path.resolve().parents]
    return str(inside[0] if inside else candidates[1])
