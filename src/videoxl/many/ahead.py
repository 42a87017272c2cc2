"""Open and decode the next videos in threads, while the model reads the one before.

A decoder works in processes of its own, so threads suffice. A thread stops when a video has filled its share of memory;
what is left of it is decoded when the model asks for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from videoxl.config import Sampling
from videoxl.video.frames import Frames, Resize, Selection
from videoxl.video.info import DecodingWork
from videoxl.video.source import VideoSource
from videoxl.video.subtitles import Cue

AHEAD_BYTES = 512 * 2**20
"""Most bytes of frames that one video holds before the model asks for them."""

T = TypeVar("T")
U = TypeVar("U")


class DecodedAhead(VideoSource):
    """An opened video of which the first frames are decoded already. It is like the source it was made of."""

    def __init__(self, source: VideoSource, selection: Selection, resize: Resize, stopped: threading.Event) -> None:
        """Decode ``selection`` until :data:`AHEAD_BYTES` are held, the end has come, or ``stopped`` is set."""
        self._source, self._selection, self._resize = source, selection, resize
        self.name, self.info, self.digest = source.name, source.info, source.digest
        self.times_F, self.times_given, self.is_still = source.times_F, source.times_given, source.is_still
        self.warnings = source.warnings
        self._ready: deque[Frames] = deque()
        self._rest: Iterator[Frames] | None = source.read(selection, resize=resize)
        held = 0
        while held < AHEAD_BYTES and not stopped.is_set():
            batch = next(self._rest, None)
            if batch is None:
                self._rest = iter(())
                break
            self._ready.append(batch)
            held += batch.pixels_FHWC.nbytes

    @property
    def losses(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of ``warnings`` of which the caller was warned."""
        return self._source.losses

    def select(self, sampling: Sampling, *, whole_groups_of: int = 1) -> Selection:
        return self._source.select(sampling, whole_groups_of=whole_groups_of)

    def decoding_work(self, selection: Selection) -> DecodingWork:
        return self._source.decoding_work(selection)

    def subtitle_track(self, which: str = "") -> tuple[Cue, ...]:
        return self._source.subtitle_track(which)

    def read(self, selection: Selection, *, resize: Resize | None, batch_frames: int = 32) -> Iterator[Frames]:
        """Give out what is decoded, and decode the rest; or begin anew where something else is asked for."""
        same = resize == self._resize and selection.indices_F.tolist() == self._selection.indices_F.tolist()
        rest, self._rest = self._rest, None  # what is decoded ahead is given out once
        if not same or rest is None:
            self._ready.clear()
            yield from self._source.read(selection, resize=resize, batch_frames=batch_frames)
            return
        while self._ready:
            yield self._ready.popleft()
        yield from rest

    def close(self) -> None:
        self._ready.clear()
        self._source.close()


class Ahead(Generic[T, U]):
    """Runs a function on the next things of a list in threads. Use it as a context manager."""

    def __init__(self, function: Callable[[T, threading.Event], U], workers: int) -> None:
        """``function(thing, stopped)`` ends soon after ``stopped`` is set. ``workers``: 0 runs it when it is asked."""
        self._function, self._workers = function, workers
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="videoxl-ahead")
        self._waiting: deque[tuple[T, Future[U]]] = deque()

    def over(self, things: Iterable[T]) -> Iterator[tuple[T, Callable[[], U]]]:
        """Yield each thing with a function that gives its result, or raises its error."""
        source = iter(things)
        if self._workers == 0:
            for thing in source:
                yield thing, lambda thing=thing: self._function(thing, self._stopped)  # type: ignore[misc]
            return
        while True:
            while len(self._waiting) <= self._workers and (upcoming := next(source, None)) is not None:
                self._waiting.append((upcoming, self._pool.submit(self._function, upcoming, self._stopped)))
            if not self._waiting:
                return
            thing, future = self._waiting.popleft()
            yield thing, future.result

    def __enter__(self) -> Ahead[T, U]:
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the threads. What they have finished and nobody asked for is closed."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
        for _, future in self._waiting:
            if not future.cancelled() and future.exception() is None:
                close = getattr(future.result(), "close", None)
                if close is not None:
                    close()
