"""Keeps tracks that took long to make, by what they were made from: the whole content of a file, and all settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from videoxl.cues import Track
from videoxl.cues_json import tracks_from_json, tracks_json
from videoxl.errors import MemoryFileError
from videoxl.memory.file.atomic import replacing, write_at

MOST_BYTES = 200_000_000
"""Of the cache on disk. An hour of speech takes about 1 MB. What was not used for longest is removed first."""
VERSION = 1
"""Of how tracks are made: another number makes all of them anew."""


class TrackCache:
    """A folder of tracks. What cannot be read in it counts as missing."""

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        """``folder``: default ``words`` in the user's cache folder for videoxl."""
        self.folder = folder or platformdirs.user_cache_path("videoxl") / "words"
        self._most_bytes = most_bytes

    def path(self, made_from: Mapping[str, object]) -> Path:
        """Where the track that is made from this is kept. ``made_from``: plain values for JSON."""
        text = json.dumps({"version": VERSION, **made_from}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def get(self, made_from: Mapping[str, object]) -> Track | None:
        """The track that was made from this; None if there is none."""
        path = self.path(made_from)
        try:
            (track,) = tracks_from_json(path.read_bytes())
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return track

    def put(self, made_from: Mapping[str, object], track: Track) -> str | None:
        """Keep a track. Returns a sentence where that is not possible."""
        data = tracks_json([track]).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.path(made_from), len(data)) as descriptor:
                write_at(descriptor, data, 0)
            self._shrink()
        except (MemoryFileError, OSError) as error:
            why = " ".join(str(error).split(";")[0].split())
            return f"it was not kept for the next time: {why}"
        return None

    def _shrink(self) -> None:
        """Remove what was not used for longest, until the rest is small enough."""
        found = sorted((one for one in self._files()), key=lambda one: one[0], reverse=True)
        total = 0
        for _, size, path in found:
            total += size
            if total > self._most_bytes:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found
