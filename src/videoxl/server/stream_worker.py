"""The worker's part of streams: each is watched a stretch at a time, in turn, between questions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from videoxl.config import Generation
from videoxl.errors import LiveError
from videoxl.inference.engine import VideoXL
from videoxl.live.asking import About
from videoxl.live.opening import open_watcher
from videoxl.live.settings import WatchSettings
from videoxl.live.watcher import Watcher
from videoxl.server.protocol import STREAM, Ask, Json, Reply, StreamEnded, StreamTold, Unwatch, Watch
from videoxl.settings import from_plain


class Streams:
    """The streams that a worker watches. A fault of one is that one's end, and told."""

    def __init__(self, engine: VideoXL, tell: Callable[[Reply], None]) -> None:
        self._engine, self._tell = engine, tell
        self._watched: OrderedDict[str, Watcher] = OrderedDict()

    def __len__(self) -> int:
        return len(self._watched)

    def begin(self, watch: Watch) -> None:
        """Watch a stream. It is connected to while others go on."""
        if watch.id in self._watched:
            return
        try:
            settings = from_plain(WatchSettings, watch.settings)
            self._watched[watch.id] = open_watcher(
                self._engine, watch.url, watch.folder, settings, fps=watch.fps, pinned=True, wait=False
            )
        except Exception as error:  # noqa: BLE001  whatever it is, the others go on
            self._tell(_ended(watch.id, error))

    def end(self, unwatch: Unwatch) -> None:
        """Save what was seen of a stream, and let go of it."""
        if (watcher := self._watched.pop(unwatch.id, None)) is not None:
            self._close(unwatch.id, watcher, None)

    def step(self) -> bool:
        """Go on with the stream whose turn it is. Returns whether it had something to read."""
        if not self._watched:
            return False
        name, watcher = next(iter(self._watched.items()))
        self._watched.move_to_end(name)
        before = watcher.frames
        try:
            goes_on = watcher.step(0.0)
        except Exception as error:  # noqa: BLE001  whatever it is, the others go on
            self._watched.pop(name)
            self._close(name, watcher, error)
            return True
        self._tell_events(name, watcher)
        if not goes_on:
            self._watched.pop(name)
            self._close(name, watcher, getattr(watcher.source, "error", None))
        return watcher.frames > before

    def answer(self, ask: Ask) -> Json:
        """Answer a question about a stream. Raises :class:`LiveError` for one that is not watched."""
        watcher = self._watched.get(ask.memory.removeprefix(STREAM))
        if watcher is None:
            raise LiveError("this stream is not being watched now: ask later", code="stream_not_watched")
        about: About = ask.about if isinstance(ask.about, tuple) else "all" if ask.about == "all" else "now"
        found = watcher.ask(ask.question, about=about, generation=from_plain(Generation, ask.generation))
        return {**found.best.answer.to_dict(), "live": found.to_dict()}

    def _tell_events(self, name: str, watcher: Watcher) -> None:
        events = [event.to_dict() for event in watcher.events()]
        if events:
            self._tell(StreamTold(name, events, watcher.at))

    def _close(self, name: str, watcher: Watcher, why: Exception | None) -> None:
        try:
            watcher.close()
        except Exception as error:  # noqa: BLE001  such as a full disk: the journal keeps what could not be saved
            why = why or error
        self._tell_events(name, watcher)
        self._tell(_ended(name, why))


def _ended(name: str, error: Exception | None) -> StreamEnded:
    if error is None:
        return StreamEnded(name, "", "")
    return StreamEnded(name, getattr(error, "code", "worker_failed"), " ".join(str(error).split()))
