"""Find the video files of a benchmark in a folder, whatever subfolders they lie in."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from videoxl.errors import EvaluationError
from videoxl.evaluation.annotations import VIDEO_ENDINGS


class VideoFolder:
    """A folder of videos. It is walked through once, at the first look-up."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Raises :class:`EvaluationError` for what is no folder."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise EvaluationError(f"videos: {folder} is no folder")

    def find(self, name: str) -> str | None:
        """Return the file that annotations call ``name``, with or without folders and an ending; None without one.

        Of several files of that name, the one whose folders fit best is returned. Raises :class:`EvaluationError` if
        two fit equally well.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        found = self._by_name.get(wanted.name.lower()) or self._by_stem.get(_stem(wanted.name), [])
        if not found:
            return None
        fits = {path: _common_end(Path(path).parent.parts, wanted.parent.parts) for path in found}
        best = [path for path, fit in fits.items() if fit == max(fits.values())]
        if len(best) > 1:
            raise EvaluationError(f"videos: {name} is in {self.folder} more than once: {', '.join(sorted(best)[:3])}")
        return best[0]

    @cached_property
    def _files(self) -> list[str]:
        return [
            os.path.join(folder, name)
            for folder, _, names in os.walk(self.folder)
            for name in sorted(names)
            if name.lower().endswith(VIDEO_ENDINGS)
        ]

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped({path: os.path.basename(path).lower() for path in self._files})

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped({path: _stem(os.path.basename(path)) for path in self._files})


def _stem(name: str) -> str:
    """A file's name without the ending of a video; a name such as ``v1.2`` keeps its full stop."""
    lower = name.lower()
    return next((lower[: -len(ending)] for ending in VIDEO_ENDINGS if lower.endswith(ending)), lower)


def _grouped(names: dict[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path, name in names.items():
        groups[name].append(path)
    return groups


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many of the last folders are the same."""
    count = 0
    for left, right in zip(reversed(one), reversed(other)):
        if left != right:
            break
        count += 1
    return count
