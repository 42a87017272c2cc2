"""Videos that an agent has opened, and what it may ask about them.

An agent sees the folders it was given, and nothing else. Everything it gets back is plain and bounded in size.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videoxl.config import Generation, Sampling
from videoxl.errors import CatalogueError, VideoNotFoundError
from videoxl.inference.answers import Answer
from videoxl.inference.elsewhere.frames import Picture, pictures_of
from videoxl.inference.evidence_spans import EvidenceSpan
from videoxl.inference.progress import Progress
from videoxl.inference.video_input import open_for_model
from videoxl.many.sources import VIDEO_SUFFIXES
from videoxl.memory.file.format import is_memory_file
from videoxl.memory.video_memory import VideoMemory

if TYPE_CHECKING:
    from videoxl.catalogue.catalogue import Catalogue
    from videoxl.inference.engine import VideoXL

Json = dict[str, Any]
MOST_FRAMES = 8
"""Frames that an agent gets at a time."""
MOST_SIDE = 1024
PLANNED = (
    *("frames", "video_seconds", "memory_tokens", "total_bytes", "available_bytes", "device"),
    *("fits", "advice", "seconds", "notes"),
)
"""What an agent learns of a plan."""
FOUND = ("path", "start", "end", "track", "text", "score")
"""What it learns of a hit."""
MOST_LISTED = 500
MOST_HITS = 50
MOST_QUOTES = 20
MOST_WARNINGS = 20


@dataclass
class OpenedVideo:
    """A video that was read."""

    path: str
    memory: VideoMemory
    asked: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Seen:
    """An answer's evidence, with a frame from each stretch."""

    facts: Json
    pictures: list[Picture]


class Session:
    """Opens videos of some folders, keeps the latest of their memories, and answers about them. Any thread may call."""

    def __init__(
        self,
        folders: Sequence[str | os.PathLike[str]],
        load: Callable[[], VideoXL],
        *,
        planned: Json | None = None,
        keep: int = 4,
        catalogue: Callable[[], Catalogue | None] = lambda: None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            load: gives the model when it is first needed.
            planned: names it for plans: ``model``, ``device``, ``dtype``, ``quantization``.
            keep: memories that stay open, at most.
            catalogue: opens the index of videos; None: there is none.

        Raises ``ValueError`` for what is no folder.
        """
        self.folders = [_folder(folder) for folder in folders]
        if not self.folders:
            raise ValueError("give at least one folder of videos")
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._load, self._planned, self._keep, self._catalogue = load, planned or {}, keep, catalogue
        self._engine: VideoXL | None = None
        self._searched: Catalogue | None = None
        self._lock = threading.RLock()
        self._opened: OrderedDict[str, OpenedVideo] = OrderedDict()
        self._count = 0

    @property
    def engine(self) -> VideoXL:
        """The model, which is loaded once."""
        with self._lock:
            if self._engine is None:
                self._engine = self._load()
            return self._engine

    # ----------------------------------------------------------------------------------------------------- files

    def inside(self, path: str) -> str:
        """The real path of a file in one of the folders, given from there or absolute.

        Raises ``VideoNotFoundError`` for a file that is not there, and for one outside: an agent does not learn which.
        """
        given = Path(path).expanduser()
        tried = [given] if given.is_absolute() else [folder / given for folder in self.folders]
        for one in tried:
            try:
                real = one.resolve(strict=True)
            except (OSError, ValueError, RuntimeError):  # not there; a zero byte; a loop of links
                continue
            if any(real.is_relative_to(folder) for folder in self.folders):
                return str(real)
        raise VideoNotFoundError(f"{path}: no such file in {', '.join(map(str, self.folders))}")

    def files(self, below: str = "") -> Json:
        """Videos and memories in the folders, or in one of their folders."""
        roots = [Path(self.inside(below))] if below else self.folders
        found = [{"path": str(path), "bytes": path.stat().st_size} for root in roots for path in _media(root)]
        return {"folders": [str(folder) for folder in self.folders], "files": found[:MOST_LISTED], "count": len(found)}

    # --------------------------------------------------------------------------------------------------- reading

    def plan(self, path: str, **sampling: Any) -> Json:
        """What reading a video would take: nothing is decoded."""
        from videoxl.inference.plan.planner import plan

        found = plan(self.inside(path), **self._planned, **sampling)
        kept = (
            "frames",
            "video_seconds",
            "memory_tokens",
            "total_bytes",
            "available_bytes",
            "fits",
            "advice",
            "seconds",
        )
        return {name: value for name, value in found.to_dict().items() if name in kept}

    def open(self, path: str, progress: Progress, *, tracks: Sequence[str] = (), **sampling: Any) -> Json:
        """Read a video, or load a memory file. What was opened longest ago is closed when there are too many."""
        real, engine = self.inside(path), self.engine
        if is_memory_file(real):
            if sampling or tracks:
                raise ValueError(f"{path} is a memory, the video was read when it was made: give its path alone")
            memory = VideoMemory.load(real, engine)
        else:
            memory = engine.encode(real, tracks=tuple(tracks), progress=progress, **sampling)
        with self._lock:
            self._count += 1
            name = f"video-{self._count}"
            self._opened[name] = OpenedVideo(real, memory)
            closed = [self._opened.popitem(last=False)[0] for _ in range(len(self._opened) - self._keep)]
        return {**self._facts(name), "closed": closed}

    def close(self, name: str) -> Json:
        """Give the memory of a video back."""
        with self._lock:
            self._named(name)
            del self._opened[name]
        return {"closed": [name]}

    def opened(self) -> list[Json]:
        """The videos that are open."""
        with self._lock:
            return [self._facts(name) for name in self._opened]

    def _named(self, name: str) -> OpenedVideo:
        with self._lock:
            if name not in self._opened:
                there = ", ".join(self._opened) or "none: open one first"
                raise ValueError(f"no video {name!r:.60} is open; open are {there}")
            self._opened.move_to_end(name)
            return self._opened[name]

    def _facts(self, name: str) -> Json:
        opened = self._opened[name]
        memory = opened.memory
        return {
            "video": name,
            "path": opened.path,
            "start": memory.groups[0].start_s,
            "end": memory.groups[-1].end_s,
            "frames": memory.frames,
            "tracks": [{"kind": str(track.kind.value), "cues": len(track.cues)} for track in memory.tracks],
            "warnings": list(memory.warnings[:MOST_WARNINGS]),
        }

    # ---------------------------------------------------------------------------------------------------- asking

    def ask(
        self, name: str, question: str, *, choices: Sequence[str] = (), max_new_tokens: int = 256, decode: str = ""
    ) -> Json:
        """Answer a question about an opened video, with the stretches that the answer looked at."""
        answer = self._answer(name, question, Generation(choices=tuple(choices), max_new_tokens=max_new_tokens), decode)
        return _answer_facts(answer)

    def evidence(self, name: str, question: str, *, max_side: int = 512) -> Seen:
        """Where in an opened video the answer to a question is seen, with the middle frame of each stretch."""
        answer = self._answer(name, question, Generation(max_new_tokens=64), "")
        opened = self._named(name)
        facts = _answer_facts(answer)
        if is_memory_file(opened.path):
            facts["note"] = f"{opened.path} holds no pictures: open the video itself to see frames"
            return Seen(facts, [])
        middles = [(span.start + span.end) / 2 for span in answer.evidence[:MOST_FRAMES]]
        return Seen(facts, self.frames(opened.path, middles, max_side=max_side) if middles else [])

    def _answer(self, name: str, question: str, generation: Generation, decode: str) -> Answer:
        opened = self._named(name)
        with opened.asked:
            return self.engine.ask(opened.memory, question, generation=generation, decode=decode or None)

    def frames(self, video: str, seconds: Sequence[float], *, max_side: int = 512) -> list[Picture]:
        """What is on screen at some seconds of an opened video or of a file, at most eight at a time."""
        if not 1 <= len(seconds) <= MOST_FRAMES:
            raise ValueError(f"ask for 1 to {MOST_FRAMES} frames at a time, got {len(seconds)}")
        if not 16 <= max_side <= MOST_SIDE:
            raise ValueError(f"max_side must be from 16 to {MOST_SIDE} pixels, got {max_side}")
        with self._lock:
            path = self._opened[video].path if video in self._opened else self.inside(video)
        if is_memory_file(path):
            raise ValueError(f"{path} is a memory and holds no pictures: give the path of the video")
        with open_for_model(path) as source:
            if source.times_F is None or not len(source.times_F):
                raise ValueError(f"{path}: its frames cannot be chosen by time")
            chosen = source.select(Sampling(times=tuple(sorted(seconds)))).indices_F
            return pictures_of(source, np.unique(chosen).tolist(), max_side)

    # -------------------------------------------------------------------------------------------------- searching

    def search(self, query: str, *, by: str = "all", limit: int = 10) -> Json:
        """Moments of the indexed videos in the folders in which something is said, written or shown."""
        from videoxl.catalogue.entries import Filter

        if not 1 <= limit <= MOST_HITS:
            raise ValueError(f"limit must be from 1 to {MOST_HITS}, got {limit}")
        catalogue = self._index()
        each = [
            catalogue.search(query, by=by, limit=limit, where=Filter(folder=str(folder)))  # type: ignore[arg-type]
            for folder in self.folders
        ]
        hits = {(hit.video, hit.start, hit.track): hit for found in each for hit in found}
        best = sorted(hits.values(), key=lambda hit: -hit.score)[:limit]
        plain = [{name: getattr(hit, name) for name in FOUND} for hit in best]
        return {"hits": plain, "notes": sorted({note for found in each for note in found.notes})}

    def _index(self) -> Catalogue:
        with self._lock:
            if self._searched is None:
                self._searched = self._catalogue()
            if self._searched is None:
                raise CatalogueError("no videos are indexed: 'videoxl index FOLDER' makes an index to search in")
            return self._searched


def _answer_facts(answer: Answer) -> Json:
    return {
        "answer": answer.text,
        "confidence": answer.confidence,
        "choices": [choice._asdict() for choice in answer.choices],
        "evidence": [_span(span) for span in answer.evidence],
        "quotes": [quote._asdict() for quote in answer.quotes[:MOST_QUOTES]],
        "warnings": list(answer.warnings[:MOST_WARNINGS]),
    }


def _span(span: EvidenceSpan) -> Json:
    return {"start": round(span.start, 3), "end": round(span.end, 3), "share": round(span.share, 4)}


def _folder(folder: str | os.PathLike[str]) -> Path:
    try:
        real = Path(folder).expanduser().resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder}: {getattr(error, 'strerror', None) or 'cannot be used'}") from None
    if not real.is_dir():
        raise ValueError(f"{folder}: is no folder")
    return real


def _media(root: Path) -> Iterator[Path]:
    """Videos and memories below a folder, in order. Links that lead out of it are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix.lower() in {*VIDEO_SUFFIXES, ".vxl"} and path.resolve().is_relative_to(root):
                yield path
