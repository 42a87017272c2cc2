"""The folder of a stream: its segments, by age in smaller and smaller forms, within a limit of bytes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from videoxl.errors import LiveError, MemoryFileError
from videoxl.live.journal import Journal
from videoxl.memory.file.atomic import replacing, write_at
from videoxl.settings import from_json

Level = Literal["dense", "pooled", "vectors"]
ABOUT, EVENTS, INDEX, LOCK = "live.json", "events.jsonl", "index.db", "live.lock"
VERSION = 1


@dataclass(frozen=True)
class About:
    """What a folder holds."""

    version: int
    stream: str
    """Digest of the stream's address, without user and password."""
    shown: str
    """The address as it may be shown."""
    model: str
    """Fingerprint of the model."""
    epoch: float
    """Time, since 1970, at which the stream's axis begins."""


@dataclass(frozen=True)
class SegmentFacts:
    """A stretch of the stream that is past. Times are seconds on its axis."""

    start: float
    end: float
    frames: int
    last: float
    """When the last of its frames is shown."""
    level: Level = "dense"
    gaps: tuple[tuple[float, float], ...] = ()
    video: int | None = None
    """Its id in the index."""
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """Beginning of the names of its files."""
        return f"{round(self.start * 1000):015d}"


class Folder:
    """The files of one stream. One process may write them at a time."""

    def __init__(self, path: str | os.PathLike[str], *, stream: str, shown: str, model: str, now: float) -> None:
        """Open or make a folder. Raises :class:`LiveError` for one that is in use, or of another stream or model."""
        self.path = Path(path)
        self.segments_path = self.path / "segments"
        try:
            self.segments_path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise LiveError(f"{path} cannot be used ({error.strerror}): give another folder (--out)") from None
        try:
            self._take_lock()
            self.about = self._agreed(About(VERSION, _digest(stream), shown, model, now))
            self.segments = sorted(self._read(), key=lambda one: one.start)
        except BaseException:
            os.close(self._lock)
            raise
        self.journal = Journal(self.path / "current.frames")

    def close(self) -> None:
        """Let another process write here."""
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def discard_if_empty(self) -> None:
        """Remove the folder if nothing of the stream is in it."""
        names = {entry.name for entry in os.scandir(self.path)}
        if names <= {ABOUT, LOCK, "segments"} and not self.segments:
            for name in names - {"segments"}:
                (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there is something else in it
                self.segments_path.rmdir()
                self.path.rmdir()

    @property
    def last_second(self) -> float:
        """How far the stream was read, in seconds of its axis."""
        ends = [one.last for one in self.segments]
        ends += [kept.seconds for kept in self.journal.frames()]
        return max(ends, default=0.0)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LiveError(
                f"{self.path} is being watched into by another process: give another folder (--out)"
            ) from None
        except OSError:  # a file system without locks
            pass

    def _agreed(self, wanted: About) -> About:
        path = self.path / ABOUT
        if not path.exists():
            self.write(ABOUT, asdict(wanted))
            return wanted
        try:
            found = from_json(About, path.read_bytes(), ABOUT)
        except (OSError, ValueError):
            raise LiveError(f"{path} cannot be read: give another folder (--out), or remove this one") from None
        if found.version != VERSION:
            raise LiveError(f"{self.path} was written by another version: give another folder (--out)")
        if found.stream != wanted.stream:
            raise LiveError(f"{self.path} holds another stream, {found.shown}: give another folder (--out)")
        if found.model != wanted.model:
            raise LiveError(
                f"{self.path} was written with another model: load that one, or give another folder (--out)"
            )
        return found

    def _read(self) -> Iterator[SegmentFacts]:
        for path in self.segments_path.glob("*.json"):
            try:
                yield from_json(SegmentFacts, path.read_bytes(), path.name)
            except (OSError, ValueError):
                continue  # its memory stays, and is asked by hand

    def write(self, name: str, value: object) -> None:
        """Write a small file whole or not at all. Raises :class:`LiveError`."""
        data = json.dumps(value, indent=1).encode()
        try:
            with replacing(self.path / name, len(data)) as descriptor:
                write_at(descriptor, data, 0)
        except MemoryFileError as error:
            code = "disk_full" if error.code == "disk_full" else "live"
            raise LiveError(str(error), code=code) from None

    # ------------------------------------------------------------------------------------------------- segments

    def memory_path(self, segment: SegmentFacts) -> Path:
        """The memory of a segment."""
        return self.segments_path / f"{segment.name}.vxl"

    def keep(self, segment: SegmentFacts) -> None:
        """Note a segment, or what has changed with it."""
        self.write(f"segments/{segment.name}.json", asdict(segment))
        self.segments = sorted(
            [*(one for one in self.segments if one.start != segment.start), segment], key=lambda one: one.start
        )

    def drop_memory(self, segment: SegmentFacts) -> SegmentFacts:
        """Remove the memory of a segment; what finds it stays."""
        changed = replace(segment, level="vectors")
        self.keep(changed)
        self.memory_path(segment).unlink(missing_ok=True)
        return changed

    def remove(self, segment: SegmentFacts) -> None:
        """Remove all of a segment."""
        self.memory_path(segment).unlink(missing_ok=True)
        (self.segments_path / f"{segment.name}.json").unlink(missing_ok=True)
        self.segments = [one for one in self.segments if one.start != segment.start]

    def bytes_of(self, segment: SegmentFacts) -> int:
        """Bytes of a segment's memory."""
        path = self.memory_path(segment)
        return path.stat().st_size if path.exists() else 0

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        total = 0
        for root, _, names in os.walk(self.path):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.stat(os.path.join(root, name)).st_size
        return total


def _digest(stream: str) -> str:
    return hashlib.sha256(stream.encode(errors="surrogateescape")).hexdigest()[:32]
