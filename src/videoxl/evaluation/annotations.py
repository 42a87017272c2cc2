"""Read the annotation files of benchmarks, and find the videos they name."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from videoxl.errors import EvaluationError

VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file. Raises :class:`EvaluationError` if it cannot be read as UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise EvaluationError(f"annotations {path} cannot be read: {reason}") from None


def parse_json(text: str, path: str | os.PathLike[str]) -> object:
    """Parse JSON. Raises :class:`EvaluationError`, which names ``path``, for other text."""
    try:
        found: object = json.loads(text)
        return found
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"annotations {path} are no JSON: {error}") from None


def digest(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file. A resumed run compares it, so that it goes on with the same annotations."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def find_video(folder: str | os.PathLike[str], name: str) -> str:
    """Return the file in ``folder`` that annotations call ``name``, with or without a folder and an ending.

    If there is none, the path where it should be comes back, and fails when it is opened.
    """
    base = Path(name.replace("\\", "/")).name
    stems = [base] if base.lower().endswith(VIDEO_ENDINGS) else [base + ending for ending in VIDEO_ENDINGS]
    candidates = [Path(folder) / name, *(Path(folder) / stem for stem in stems)]
    inside = [path for path in candidates if os.path.isfile(path) and Path(folder).resolve() in path.resolve().parents]
    return str(inside[0] if inside else candidates[1])
