"""Index many videos: what is there already stays, what has moved is recognised, what is missing is made.

Videos are made ready in threads and written one after another, each in one transaction. So a run that is killed loses
the videos in work, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import torch

from videoxl.catalogue.catalogue import Catalogue
from videoxl.catalogue.entries import Entry, Video
from videoxl.catalogue.making import Wanted, file_facts, make_entry, missing_of
from videoxl.errors import (
    CatalogueError,
    CheckpointError,
    MissingDependencyError,
    SystemResourceError,
    VideoError,
    VideoXLError,
)
from videoxl.inference.progress import Progress

FAILURES = (VideoXLError, ValueError, OSError, MemoryError, torch.OutOfMemoryError)
"""Errors that are one video's ..."""
OF_ALL = (CatalogueError, CheckpointError, MissingDependencyError, SystemResourceError)
"""... but for these, which the next video would meet too."""
What = Literal["new", "changed", "kept", "moved", "copied", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What was done with one video."""

    path: str
    what: What
    problem: str = ""
    """With ``failed``: why, in one line."""
    notes: tuple[str, ...] = ()
    """What a user should know about its tracks."""


@dataclass(frozen=True, eq=False)
class _Ready:
    """A video that is ready to be written."""

    what: What
    entry: Entry
    video: Video | None = None
    """The one that is kept already: of this path, or with the same content."""
    problem: str = ""


def index_videos(
    catalogue: Catalogue, paths: Sequence[str], wanted: Wanted, *, workers: int = 1, progress: Progress
) -> Iterator[Outcome]:
    """Bring the index up to date with some videos, and yield what was done with each.

    ``workers``: videos that are made ready at a time. A video that cannot be read is an outcome like any other. Raises
    :class:`CatalogueError` where another process indexes into the same file.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers must be a whole number of at least 1, got {workers!r}")
    with only_writer(catalogue.path):
        progress("videos", 0, len(paths))
        ready = partial(_prepared, catalogue, wanted=wanted)
        for done, (path, made) in enumerate(_ahead(ready, paths, workers), start=1):
            yield _written(catalogue, path, made)
            progress("videos", done, len(paths))


def _ahead(ready: Callable[[str], _Ready], paths: Iterable[str], workers: int) -> Iterator[tuple[str, _Ready]]:
    """Make videos ready, ``workers`` at a time; a single one without a thread, so that an interruption ends it."""
    if workers == 1:
        for path in paths:
            yield path, ready(path)
        return
    waiting: deque[tuple[str, Future[_Ready]]] = deque()
    rest = iter(paths)
    with ThreadPoolExecutor(workers, thread_name_prefix="videoxl-index") as pool:
        try:
            while True:
                waiting.extend((path, pool.submit(ready, path)) for path in islice(rest, workers - len(waiting)))
                if not waiting:
                    return
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the lock of those who index. The kernel drops it when a process dies, however it dies."""
    try:
        file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise CatalogueError(
            f"{path}.lock cannot be made ({error.strerror}): name another file (--index FILE)"
        ) from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CatalogueError(
                f"{path} is being indexed into by another process: wait for it, or name another file (--index FILE)"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(file)


def _prepared(catalogue: Catalogue, path: str, wanted: Wanted) -> _Ready:
    """Find out what has to be done with a video, and do what takes long. Runs in a thread."""
    facts = Entry(os.path.abspath(path), "", 0, 0)
    try:
        facts = _facts(catalogue, path)
        return _judged(catalogue, facts, wanted)
    except FAILURES as error:
        if isinstance(error, OF_ALL):
            raise
        return _Ready("failed", facts, problem=_one_line(error))


def _facts(catalogue: Catalogue, path: str) -> Entry:
    """The facts of a file. Its digest is taken from the index where size and time are those that are noted there."""
    known = catalogue.video_at(os.path.abspath(path))
    if known is not None and known.state != "failed":
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if (found.st_size, found.st_mtime_ns) == (known.size, known.mtime_ns):
                return Entry(known.path, known.digest, known.size, known.mtime_ns)
    return file_facts(path)


def _judged(catalogue: Catalogue, facts: Entry, wanted: Wanted) -> _Ready:
    """What has to be done, and what it takes, made."""
    known = catalogue.video_at(facts.path)
    what: What
    if known is not None and known.state != "failed" and known.digest == facts.digest:
        base, what = known, "changed"
    elif (other := _elsewhere(catalogue, facts)) is not None:
        base, what = other, "copied" if _holds(other) else "moved"
    else:
        entry = make_entry(facts, wanted, missing_of(facts.path, wanted, None))
        return _Ready("new" if known is None or known.state == "failed" else "changed", entry)
    missing = missing_of(facts.path, wanted, catalogue.made(base.id))
    facts = replace(facts, duration=base.duration)
    if missing:
        return _Ready(what, make_entry(facts, wanted, missing, catalogue.tracks(base.id)), base)
    return _Ready("kept" if base is known else what, facts, base)


def _elsewhere(catalogue: Catalogue, facts: Entry) -> Video | None:
    """A video with the same content that is kept: first one whose file is no longer there."""
    same = [one for one in catalogue.videos_with(facts.digest) if one.state != "failed" and one.path != facts.path]
    moved = [one for one in same if not _holds(one)]
    if moved:
        return moved[0]
    return next((one for one in same if _same_bytes(one.path, facts.path)), None)


def _holds(video: Video) -> bool:
    """Whether a video's file still holds what is kept of it."""
    try:
        return file_facts(video.path).digest == video.digest
    except VideoError:
        return False


def _same_bytes(one: str, other: str) -> bool:
    """The digest looks at both ends of a file alone, which is not enough where both files are there."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _written(catalogue: Catalogue, path: str, ready: _Ready) -> Outcome:
    """Write what was made ready."""
    entry, video = ready.entry, ready.video
    if ready.what == "failed":
        catalogue.add_failure(entry, ready.problem)
        return Outcome(path, "failed", ready.problem)
    if ready.what == "kept":
        if video is not None and (video.state != "ready" or video.mtime_ns != entry.mtime_ns):
            catalogue.move(video.id, entry.path, mtime_ns=entry.mtime_ns)
        return Outcome(path, "kept")
    if ready.what == "moved" and video is not None:
        catalogue.move(video.id, entry.path, mtime_ns=entry.mtime_ns)
    if ready.what == "copied" and video is not None:
        catalogue.copy(video.id, entry)
    if entry.tracks or ready.what in ("new", "changed"):
        catalogue.add(entry)
    return Outcome(path, ready.what, notes=tuple(dict.fromkeys(_notes(entry))))


def _notes(entry: Entry) -> Iterator[str]:
    yield from entry.notes
    for made in entry.tracks:
        if made.track is not None:
            yield from made.track.notes


def mark_missing(catalogue: Catalogue, roots: Iterable[str], seen: Iterable[str]) -> list[str]:
    """Let videos below some folders not be found when their files are gone; returns their paths.

    ``seen``: paths that were just indexed, and need no second look.
    """
    inside = tuple(os.path.join(os.path.abspath(root), "") for root in roots)
    known = {os.path.abspath(path) for path in seen}
    lost = [
        video
        for video in catalogue.videos()
        if video.state != "gone" and video.path.startswith(inside) and video.path not in known
        if not os.path.lexists(video.path)
    ]
    catalogue.mark_gone(video.id for video in lost if video.state == "ready")
    catalogue.delete(video.id for video in lost if video.state == "failed")  # of which nothing is kept
    return [video.path for video in lost]


def counted(outcomes: Iterable[Outcome]) -> Counter[What]:
    """How many videos came out how."""
    return Counter(outcome.what for outcome in outcomes)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, VideoXLError | ValueError) and text else f"{type(error).__name__}: {text}"
