from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from videoxl.inference.engine import VideoXL, load
from videoxl.live.folder import Folder
from videoxl.live.settings import WatchSettings
from videoxl.live.watcher import Watcher
from videoxl.video.live.source import Gap, LiveFrame, StateChange
from videoxl.world import Event, Film, Renderer, Thing

FILM = Film(groups=10, events=(Event(Thing("red", "star"), 2, 4), Event(Thing("green", "square"), 6, 8)), seed=2)
"""Forty seconds: a red star from 8 to 16 s, a green square from 24 to 32 s."""


class FilmSource:
    """Frames of a film, one a second, as fast as they are taken. ``begin``: second of the axis at which it begins."""

    name = "film"
    error = None

    def __init__(self, film: Film = FILM, *, begin: float = 0.0, gaps: list[Gap] | None = None) -> None:
        times = [at - film.begin + begin for at in film.timestamps]
        self._frames: Iterator[LiveFrame] = (
            LiveFrame(Renderer(film).frames(48, number, number + 1)[0], at) for number, at in enumerate(times)
        )
        self._changes = [StateChange("live", begin, "raw")]
        self._gaps = gaps or []
        self.ended = self.closed = False

    def take(self, most: int, seconds: float) -> list[LiveFrame]:
        found = [] if self.closed else [*islice(self._frames, most)]
        self.ended = self.ended or len(found) < most
        return found

    def changes(self) -> list[StateChange]:
        found, self._changes = self._changes, []
        return found

    def gaps(self) -> list[Gap]:
        found, self._gaps = self._gaps, []
        return found

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="session")
def engine() -> VideoXL:
    return load("tiny", device="cpu")


def folder_at(path: Path, engine: VideoXL, *, now: float = 1000.0, stream: str = "tcp://h:1") -> Folder:
    return Folder(path, stream=stream, shown=stream, model=engine.fingerprint, now=now)


def watcher_at(path: Path, engine: VideoXL, source: FilmSource | None = None, **settings: object) -> Watcher:
    chosen = WatchSettings(**{"segment_s": 16.0, "stretch": 4, **settings})
    return Watcher(engine, source or FilmSource(), folder_at(path, engine), chosen)


def run(watcher: Watcher, *, steps: int | None = None) -> list:
    """Work to the end, or some steps, and give what was told."""
    told = []
    while watcher.step(0.0) and (steps is None or (steps := steps - 1) > 0):
        told += watcher.events()
    if steps is None:
        watcher.close()
    return [*told, *watcher.events()]
