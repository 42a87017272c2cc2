"""Keep memories in a folder, so that a video is read once for all questions, benchmarks and runs that share it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from videoxl.errors import EvaluationError, MemoryFileError
from videoxl.inference.engine import VideoXL
from videoxl.memory.video_memory import VideoMemory


class MemoryStore:
    """A folder of ``.vxl`` files, named by all that a memory depends on: the video's content, how it was read, and the
    model. Several processes and machines may use one folder.
    """

    def __init__(self, folder: str | os.PathLike[str], *, warn: Callable[[str], None] = lambda text: None) -> None:
        """Make the folder. Raises :class:`EvaluationError` if it cannot be made.

        ``warn``: called with a line for every memory that could not be used or kept.
        """
        self.folder, self.warn = Path(folder), warn
        self._digests: dict[tuple[str, int, int], str] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EvaluationError(f"memories: {folder} cannot be made a folder ({error.strerror})") from None

    def read(self, engine: VideoXL, video: str, settings: Mapping[str, Any]) -> tuple[VideoMemory, bool]:
        """Return the memory of a video file, and whether it was kept; one that was not is made and kept.

        ``settings``: arguments of :meth:`VideoXL.encode`. Raises what ``encode`` raises.
        """
        try:
            path = self.path(engine, video, settings)
        except OSError:  # a folder of pictures, nothing, or a file that cannot be read: encode says which
            return engine.encode(video, **settings), False
        memory = self.load(engine, path)
        if memory is not None:
            return memory, True
        memory = engine.encode(video, **settings)
        self.keep(memory, path)
        return memory, False

    def path(self, engine: VideoXL, video: str, settings: Mapping[str, object]) -> Path:
        """Return where the memory of a video is kept. ``settings``: how it is read, as values with a ``str()``."""
        known = {
            "video": self._digest(video),
            "model": engine.fingerprint,
            "family": engine.config.family,
            "dtype": engine.dtype,
            "settings": {name: str(value) for name, value in sorted(settings.items())},
        }
        name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:40]
        return self.folder / f"{name}.vxl"

    def load(self, engine: VideoXL, path: Path) -> VideoMemory | None:
        """Return the memory kept at ``path``; None without one, or for one that cannot be used, which is told."""
        if not path.is_file():
            return None
        try:
            return VideoMemory.load(path, engine)
        except MemoryFileError as error:
            self.warn(f"{path.name} cannot be used, the video is read again: {error}")
            return None

    def keep(self, memory: VideoMemory, path: Path) -> None:
        """Write a memory. One that cannot be written is told, and the run goes on without it."""
        try:
            memory.save(path)
        except MemoryFileError as error:
            self.warn(f"{path.name} was not kept: {error}")

    def _digest(self, video: str) -> str:
        """The sha256 of a file, computed once for a file that does not change."""
        facts = os.stat(video)
        known = (os.path.realpath(video), facts.st_size, facts.st_mtime_ns)
        if known not in self._digests:
            with open(video, "rb") as file:
                self._digests[known] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[known]
