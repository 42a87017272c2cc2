"""Write videos into a catalogue, and take them out. Every function runs inside of a transaction of the caller."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Sequence

import numpy as np

from videoxl.catalogue.codes import Codes
from videoxl.catalogue.entries import Entry, Floats, IndexedTrack, Space, State, Vectors, Video
from videoxl.catalogue.words import words_in
from videoxl.cues import Cue, ScreenCue, SpokenCue, Track, TrackKind
from videoxl.text import without_surrogates

CUE_COLUMNS = "start_s, end_s, text, confidence, box"
COLUMNS = "id, path, digest, bytes, mtime_ns, duration, state, problem"


def video_of(row: Sequence[object]) -> Video:
    """A row of :data:`COLUMNS`."""
    id_, path, *rest = row
    return Video(id_, os.fsdecode(path), *rest)  # type: ignore[arg-type]


def changed(db: sqlite3.Connection) -> None:
    """Count a change, so that readers look again."""
    db.execute("UPDATE catalogue SET version = version + 1")


def put_video(db: sqlite3.Connection, entry: Entry, state: State = "ready", problem: str = "") -> int:
    """Write the row of a video, and return its id. What was kept of other content under its path is removed."""
    path = os.fsencode(entry.path)
    old = db.execute("SELECT id, digest FROM videos WHERE path = ?", (path,)).fetchone()
    values = (entry.digest, entry.size, entry.mtime_ns, entry.duration, state, without_surrogates(problem))
    if old is None:
        made = db.execute(
            "INSERT INTO videos (digest, bytes, mtime_ns, duration, state, problem, path) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*values, path),
        )
        return int(made.lastrowid or 0)
    if old[1] != entry.digest:
        remove_tracks(db, old[0])
        db.execute("DELETE FROM thumbnails WHERE video = ?", (old[0],))
    db.execute(
        "UPDATE videos SET digest = ?, bytes = ?, mtime_ns = ?, duration = coalesce(?, duration), state = ?, "
        "problem = ? WHERE id = ?",
        (*values, old[0]),
    )
    return int(old[0])


def put_thumbnails(db: sqlite3.Connection, video: int, thumbnails: Sequence[tuple[float, bytes]]) -> None:
    """Replace the thumbnails of a video."""
    db.execute("DELETE FROM thumbnails WHERE video = ?", (video,))
    db.executemany("INSERT INTO thumbnails VALUES (?, ?, ?)", ((video, time, jpeg) for time, jpeg in thumbnails))


def put_track(db: sqlite3.Connection, video: int, made: IndexedTrack) -> None:
    """Replace a track of a video, with its cues and vectors."""
    remove_tracks(db, video, made.kind)
    cues = () if made.track is None else made.track.cues
    first_cue = _next(db, "cues")
    row = db.execute(
        "INSERT INTO tracks (video, kind, settings, language, source, notes, first_cue, cues, space, first_vector, "
        "vectors, times, code_words, code_scales) VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, 0, 0, x'', x'', x'')",
        (
            *(video, made.kind, without_surrogates(made.settings)),
            *map(without_surrogates, _about(made.track)),
            *(first_cue, len(cues)),
        ),
    )
    track = int(row.lastrowid or 0)
    texts = [without_surrogates(cue.text) for cue in cues]
    db.executemany(
        "INSERT INTO cues VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (first_cue + place, track, cue.start_s, cue.end_s, text, *_sureness(cue))
            for place, (cue, text) in enumerate(zip(cues, texts))
        ),
    )
    db.executemany(
        "INSERT INTO words (rowid, text) VALUES (?, ?)",
        ((first_cue + place, " ".join(words_in(text))) for place, text in enumerate(texts)),
    )
    if made.vectors is not None:
        put_vectors(db, track, made.vectors)


def _about(track: Track | None) -> tuple[str, str, str]:
    return ("", "", "") if track is None else (track.language, track.source, "\n".join(track.notes))


def _sureness(cue: Cue) -> tuple[float | None, str | None]:
    confidence = cue.confidence if isinstance(cue, SpokenCue | ScreenCue) else None
    return confidence, json.dumps(cue.box) if isinstance(cue, ScreenCue) else None


def put_vectors(db: sqlite3.Connection, track: int, made: Vectors) -> None:
    """Give a track, which has none, its vectors."""
    space, centre_D = _space(db, made.space, made.vectors_ND)
    first = _next(db, "vectors")
    words, scales = Codes.of(made.vectors_ND, centre_D).to_bytes() if len(made.vectors_ND) else (b"", b"")
    db.execute(
        "UPDATE tracks SET space = ?, first_vector = ?, vectors = ?, times = ?, code_words = ?, code_scales = ? "
        "WHERE id = ?",
        (space, first, len(made.vectors_ND), made.times_N2.astype("<f8").tobytes(), words, scales, track),
    )
    halves = made.vectors_ND.astype("<f2")
    db.executemany(
        "INSERT INTO vectors VALUES (?, ?, ?)",
        ((first + place, track, vector.tobytes()) for place, vector in enumerate(halves)),
    )


def _space(db: sqlite3.Connection, wanted: Space, vectors_ND: Floats) -> tuple[int | None, Floats]:
    """The space of vectors and its centre: the mean of the first vectors that came."""
    found = db.execute(
        "SELECT id, width, centre FROM spaces WHERE kind = ? AND fingerprint = ?", (wanted.kind, wanted.fingerprint)
    ).fetchone()
    if found is not None:
        if len(vectors_ND) and found[1] != vectors_ND.shape[1]:
            raise ValueError(f"{wanted.model} gives vectors of {vectors_ND.shape[1]} numbers, before {found[1]}")
        return found[0], np.frombuffer(found[2], "<f4").astype(np.float32)
    if not len(vectors_ND):  # a mean of nothing would be no centre: the next video makes the space
        return None, np.zeros(0, np.float32)
    centre_D = vectors_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    made = db.execute(
        "INSERT INTO spaces (kind, model, fingerprint, width, centre) VALUES (?, ?, ?, ?, ?)",
        (
            wanted.kind,
            without_surrogates(wanted.model),
            wanted.fingerprint,
            len(centre_D),
            centre_D.astype("<f4").tobytes(),
        ),
    )
    return made.lastrowid, centre_D


def _next(db: sqlite3.Connection, table: str) -> int:
    """The first of the numbers behind all that are used, so that those of a track have no gap."""
    return int(db.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").fetchone()[0])


def remove_tracks(db: sqlite3.Connection, video: int, kind: str | None = None) -> None:
    """Remove one track, or all, with what belongs to it."""
    where, values = ("video = ?", [video]) if kind is None else ("video = ? AND kind = ?", [video, kind])
    for (track,) in db.execute(f"SELECT id FROM tracks WHERE {where}", values).fetchall():
        cues = db.execute("SELECT id, text FROM cues WHERE track = ?", (track,))
        db.executemany(  # an index without content forgets a text when it is told the text again
            "INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)",
            [(cue, " ".join(words_in(text))) for cue, text in cues],
        )
        db.execute("DELETE FROM tracks WHERE id = ?", (track,))


def remove_videos(db: sqlite3.Connection, ids: Iterable[int]) -> int:
    """Remove videos and all that belongs to them; returns how many there were."""
    removed = 0
    for video in ids:
        remove_tracks(db, video)
        removed += db.execute("DELETE FROM videos WHERE id = ?", (video,)).rowcount
    return removed


def read_tracks(db: sqlite3.Connection, video: int) -> list[IndexedTrack]:
    """All tracks of a video, as they were put."""
    made = []
    columns = "id, kind, settings, language, source, notes, space, times"
    for id_, kind, settings, language, source, notes, space, times in db.execute(
        f"SELECT {columns} FROM tracks WHERE video = ? ORDER BY id", (video,)
    ).fetchall():
        track = None
        if kind != "frames":
            rows = db.execute(
                "SELECT start_s, end_s, text, confidence, box FROM cues WHERE track = ? ORDER BY id", (id_,)
            )
            cues = tuple(_cue(kind, *row) for row in rows)
            track = Track(TrackKind(kind), cues, language, source, tuple(notes.split("\n")) if notes else ())
        made.append(IndexedTrack(kind, settings, track, _read_vectors(db, id_, space, times)))
    return made


def _cue(kind: str, start: float, end: float, text: str, confidence: float | None, box: str | None) -> Cue:
    if box is not None and confidence is not None:
        return ScreenCue(start, end, text, tuple(json.loads(box)), confidence)
    return Cue(start, end, text) if confidence is None else SpokenCue(start, end, text, confidence=confidence)


def _read_vectors(db: sqlite3.Connection, track: int, space: int | None, times: bytes) -> Vectors | None:
    if space is None:
        return None
    kind, model, fingerprint, width = db.execute(
        "SELECT kind, model, fingerprint, width FROM spaces WHERE id = ?", (space,)
    ).fetchone()
    rows = db.execute("SELECT vector FROM vectors WHERE track = ? ORDER BY id", (track,))
    vectors_ND = np.frombuffer(b"".join(row[0] for row in rows), "<f2").astype(np.float32).reshape(-1, width)
    return Vectors(Space(kind, model, fingerprint), np.frombuffer(times, "<f8").reshape(-1, 2), vectors_ND)
