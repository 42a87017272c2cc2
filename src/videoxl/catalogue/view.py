"""What a search holds in memory: which tracks there are, and the codes of their vectors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from videoxl.catalogue.codes import Codes, CodeTable
from videoxl.catalogue.entries import Filter, Floats, Space, TrackName

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
SPARE = 10_000
"""Codes of removed tracks that are kept, at most, beside as many as there are of others."""


@dataclass(frozen=True)
class TrackRow:
    """A track of a video that can be found."""

    id: int
    video: int
    path: str
    kind: TrackName
    first_cue: int
    cues: int


@dataclass(frozen=True, eq=False)
class Segments:
    """Which vectors the codes of a table belong to, one entry a track, in the order of the table."""

    track_ids: Numbers
    counts: Numbers
    first_vectors: Numbers
    times_N2: npt.NDArray[np.float64]

    @property
    def total(self) -> int:
        """Number of vectors."""
        return len(self.times_N2)

    def vector_ids(self, places: Numbers) -> Numbers:
        """Ids of the vectors at places of the table."""
        segment, ends = self._segments(places)
        return self.first_vectors[segment] + places - (ends - self.counts)[segment]

    def tracks_at(self, places: Numbers) -> Numbers:
        """Ids of the tracks of the vectors at places of the table."""
        return self.track_ids[self._segments(places)[0]]

    def _segments(self, places: Numbers) -> tuple[Numbers, Numbers]:
        ends = np.cumsum(self.counts)
        return np.searchsorted(ends, places, side="right"), ends

    def of_tracks(self, allowed: Numbers) -> Flags:
        """Which vectors belong to some tracks."""
        return np.repeat(np.isin(self.track_ids, allowed), self.counts)


class SpaceView:
    """The vectors of one model."""

    def __init__(self, space: Space, id_: int, centre_D: Floats) -> None:
        self.space, self.id, self.centre_D = space, id_, centre_D
        self.table = CodeTable(-(-len(centre_D) // 64))
        none = np.zeros(0, np.int64)
        self.segments = Segments(none, none, none, np.zeros((0, 2)))

    def load_new(self, db: sqlite3.Connection) -> None:
        """Read the codes of tracks that came since the last time."""
        held = set(self.segments.track_ids.tolist())
        wanted = [
            row
            for row in db.execute("SELECT id, first_vector FROM tracks WHERE space = ? AND vectors > 0", (self.id,))
            if row[0] not in held
        ]
        times, rows = [self.segments.times_N2], list[tuple[int, int, int]]()
        for track, first in wanted:
            words, scales, spans = db.execute(
                "SELECT code_words, code_scales, times FROM tracks WHERE id = ?", (track,)
            ).fetchone()
            self.table.add(Codes.from_bytes(words, scales))
            times.append(np.frombuffer(spans, "<f8").astype(np.float64).reshape(-1, 2))
            rows.append((track, len(times[-1]), first))
        if rows:
            old, (ids, counts, firsts) = self.segments, np.array(rows, np.int64).T
            self.segments = Segments(
                np.concatenate([old.track_ids, ids]),
                np.concatenate([old.counts, counts]),
                np.concatenate([old.first_vectors, firsts]),
                np.concatenate(times),
            )


@dataclass(frozen=True, eq=False)
class View:
    """A catalogue at one moment."""

    version: int
    tracks: dict[int, TrackRow]
    """By id: those of videos that are there."""
    text_ids: Numbers
    """Ids of tracks with cues, in the order of their cues."""
    cue_starts: Numbers
    """Their first cues."""
    cue_counts: Numbers
    """How many each has."""
    spaces: tuple[SpaceView, ...]

    @classmethod
    def load(cls, db: sqlite3.Connection, before: View | None) -> View:
        """Read what changed since ``before``, which stays as it is for those who use it. Needs a read transaction."""
        version = version_of(db)
        rows = db.execute(
            "SELECT t.id, v.id, v.path, t.kind, t.first_cue, t.cues FROM tracks t JOIN videos v ON v.id = t.video "
            "WHERE v.state = 'ready' ORDER BY t.first_cue"
        )
        tracks = {row[0]: TrackRow(row[0], row[1], os.fsdecode(row[2]), *row[3:]) for row in rows}
        with_cues = [track for track in tracks.values() if track.cues]
        return cls(
            version,
            tracks,
            np.array([track.id for track in with_cues], np.int64),
            np.array([track.first_cue for track in with_cues], np.int64),
            np.array([track.cues for track in with_cues], np.int64),
            _spaces(db, before),
        )

    def allowed(self, wanted: Filter) -> Numbers:
        """Ids of the tracks that a filter leaves."""
        if all(part is None for part in (wanted.videos, wanted.folder, wanted.pattern, wanted.tracks)):
            return np.fromiter(self.tracks, np.int64, len(self.tracks))
        here = _path_test(wanted)
        good: dict[int, bool] = {}
        left = []
        for track in self.tracks.values():
            if track.video not in good:
                good[track.video] = (wanted.videos is None or track.video in wanted.videos) and here(track.path)
            if good[track.video] and (wanted.tracks is None or track.kind in wanted.tracks):
                left.append(track.id)
        return np.array(left, np.int64)

    def tracks_of_cues(self, cues: Numbers) -> Numbers:
        """Ids of the tracks that cues belong to; 0 for a cue of a track that is not there."""
        if not len(self.text_ids):
            return np.zeros(len(cues), np.int64)
        place = np.searchsorted(self.cue_starts, cues, side="right") - 1
        inside = (place >= 0) & (cues < self.cue_starts[place] + self.cue_counts[place])
        return np.where(inside, self.text_ids[place], 0)


def _spaces(db: sqlite3.Connection, before: View | None) -> tuple[SpaceView, ...]:
    known = {} if before is None else {view.id: view for view in before.spaces}
    there = dict(db.execute("SELECT space, sum(vectors) FROM tracks WHERE space IS NOT NULL GROUP BY space"))
    known = {id_: view for id_, view in known.items() if view.segments.total <= 2 * there.get(id_, 0) + SPARE}
    made = []
    for id_, kind, model, fingerprint, centre in db.execute("SELECT id, kind, model, fingerprint, centre FROM spaces"):
        view = known.get(id_) or SpaceView(
            Space(kind, model, fingerprint), id_, np.frombuffer(centre, "<f4").astype(np.float32)
        )
        made.append(view)
    return tuple(made)


def version_of(db: sqlite3.Connection) -> int:
    """How many changes a catalogue has seen."""
    return int(db.execute("SELECT version FROM catalogue").fetchone()[0])


def _path_test(wanted: Filter) -> Callable[[str], bool]:
    folder = None if wanted.folder is None else os.path.join(os.path.abspath(wanted.folder), "")
    pattern = wanted.pattern

    def here(path: str) -> bool:
        if folder is not None and not path.startswith(folder):
            return False
        if pattern is None:
            return True
        return fnmatchcase(path if os.sep in pattern else os.path.basename(path), pattern)

    return here
