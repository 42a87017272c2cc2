"""An index of many videos: what is said, written and seen in them, in one SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from videoxl.catalogue import store
from videoxl.catalogue.entries import (
    SOURCES,
    Embedder,
    Entry,
    Filter,
    Hit,
    Hits,
    IndexedTrack,
    Made,
    Source,
    Space,
    TrackName,
    Video,
)
from videoxl.catalogue.fusing import Moment, fuse, scenes
from videoxl.catalogue.schema import connect, explained, transaction
from videoxl.catalogue.sources import Candidate, by_vectors, by_words
from videoxl.catalogue.view import SpaceView, View, version_of
from videoxl.catalogue.words import Query, snippet
from videoxl.text import without_surrogates

By = Literal["all", "words", "meaning", "frames"]
CANDIDATES = 100
"""Candidates of each source that are fused, and three times as many frames; more where more hits are asked for."""
MOST_HITS = 1000
NO_WORD = "the query holds no word"


class Catalogue:
    """An index of videos. Any number of threads and processes may read it while one writes.

    ``Catalogue("index.db").search("the goal falls")``. Use it as a context manager, or call :meth:`close`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        write: bool = False,
        text_model: Embedder | None = None,
        frames_model: Embedder | None = None,
    ) -> None:
        """Open an index.

        Args:
            write: make it where there is none, and allow changes.
            text_model: turns questions into vectors, for ``meaning``; see :class:`SentenceModel`.
            frames_model: the same for ``frames``; see :class:`FrameModel`.

        Raises :class:`CatalogueError`.
        """
        self.path, self.writes = Path(path), write
        self.models: dict[Source, Embedder | None] = {"meaning": text_model, "frames": frames_model}
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._view: View | None = None
        self._db()  # what is wrong with the file is said now

    def _db(self) -> sqlite3.Connection:
        """The connection of this thread."""
        found: sqlite3.Connection | None = getattr(self._local, "db", None)
        if found is None:
            found = self._local.db = connect(self.path, write=self.writes)
            with self._lock:
                self._open.append(found)
        return found

    def close(self) -> None:
        """Close the file. No other thread may be using it."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            for db in self._open:
                db.close()
            self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------- changes

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing of it is kept."""
        with explained(self.path):
            db = self._db()
            with transaction(db):
                yield db
                store.changed(db)

    def add(self, entry: Entry) -> int:
        """Keep a video, and return its id.

        Tracks of the same kind are replaced; others stay while the content is the same.
        It is there whole when this returns, and a process that dies before leaves nothing of it.
        """
        with self._changing() as db:
            video = store.put_video(db, entry)
            for made in entry.tracks:
                store.put_track(db, video, made)
            if entry.thumbnails:
                store.put_thumbnails(db, video, entry.thumbnails)
        return video

    def add_failure(self, entry: Entry, problem: str) -> int:
        """Note that a video could not be read.

        What is kept of the same content stays, and is found. What is kept of a file that could not even be opened, so
        that its digest is empty, stays too, and is found when the file can be opened again.
        """
        with self._changing() as db:
            held = db.execute(
                "SELECT id, digest FROM videos WHERE path = ? AND state != 'failed'", (os.fsencode(entry.path),)
            ).fetchone()
            if held is None or entry.digest not in ("", held[1]):
                return store.put_video(db, entry, "failed", problem)
            state = "ready" if entry.digest else "gone"
            db.execute(
                "UPDATE videos SET state = ?, problem = ? WHERE id = ?", (state, without_surrogates(problem), held[0])
            )
            return int(held[0])

    def move(self, video: int, path: str, *, mtime_ns: int | None = None) -> None:
        """Let a video be at another path; it is ready again.

        The video that was noted there, if any, takes the old path, and is gone until it is seen again: two files may
        have changed their names.
        """
        with self._changing() as db:
            old = db.execute("SELECT path FROM videos WHERE id = ?", (video,)).fetchone()[0]
            new, aside = os.fsencode(path), b"\0moving"  # no file has such a name
            other = db.execute("SELECT id FROM videos WHERE path = ? AND id != ?", (new, video)).fetchone()
            if other is not None:
                db.execute("UPDATE videos SET path = ?, state = 'gone' WHERE id = ?", (aside, other[0]))
            db.execute(
                "UPDATE videos SET path = ?, mtime_ns = coalesce(?, mtime_ns), state = 'ready', problem = '' "
                "WHERE id = ?",
                (new, mtime_ns, video),
            )
            db.execute("UPDATE videos SET path = ? WHERE path = ?", (old, aside))

    def mark_gone(self, videos: Iterable[int]) -> None:
        """Let videos not be found until their files are back."""
        ids = [*videos]
        if ids:
            with self._changing() as db:
                db.executemany("UPDATE videos SET state = 'gone' WHERE id = ?", ((video,) for video in ids))

    def delete(self, videos: Iterable[int]) -> int:
        """Remove videos and all that is kept of them; returns how many there were."""
        with self._changing() as db:
            return store.remove_videos(db, videos)

    def prune(self) -> int:
        """Remove the videos whose files are gone; returns how many."""
        with self._changing() as db:
            gone = [row[0] for row in db.execute("SELECT id FROM videos WHERE state = 'gone'")]
            return store.remove_videos(db, gone)

    def compact(self) -> None:
        """Give room in the file that is no longer used back to the disk, where it is a fifth or more."""
        with explained(self.path):
            db = self._db()
            free, pages = (db.execute(f"PRAGMA {what}_count").fetchone()[0] for what in ("freelist", "page"))
            if 5 * free > pages:
                db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # ------------------------------------------------------------------------------------------------- content

    def videos(self) -> list[Video]:
        """All videos, by path: those that failed and those that are gone too."""
        with explained(self.path):
            rows = self._db().execute(f"SELECT {store.COLUMNS} FROM videos ORDER BY path")
            return [store.video_of(row) for row in rows]

    def video_at(self, path: str) -> Video | None:
        """The video at a path."""
        return self._one("path = ?", os.fsencode(path))

    def videos_with(self, digest: str) -> list[Video]:
        """Videos of the same content, as far as the digest tells."""
        with explained(self.path):
            rows = self._db().execute(f"SELECT {store.COLUMNS} FROM videos WHERE digest = ?", (digest,))
            return [store.video_of(row) for row in rows]

    def video(self, id_: int) -> Video | None:
        """The video with an id."""
        return self._one("id = ?", id_)

    def _one(self, where: str, value: object) -> Video | None:
        with explained(self.path):
            row = self._db().execute(f"SELECT {store.COLUMNS} FROM videos WHERE {where}", (value,)).fetchone()
        return None if row is None else store.video_of(row)

    def made(self, video: int) -> dict[TrackName, Made]:
        """How each track of a video was made."""
        with explained(self.path):
            rows = self._db().execute(
                "SELECT t.kind, t.settings, t.cues, coalesce(s.fingerprint, '') FROM tracks t LEFT JOIN spaces s "
                "ON s.id = t.space WHERE t.video = ?",
                (video,),
            )
            return {row[0]: Made(*row[1:]) for row in rows}

    def tracks(self, video: int) -> list[IndexedTrack]:
        """All tracks of a video, with their cues and vectors."""
        with explained(self.path):
            return store.read_tracks(self._db(), video)

    def copy(self, video: int, entry: Entry) -> int:
        """Keep for the file of ``entry`` all that is kept of a video with the same content; returns the new id."""
        with self._changing() as db:
            new = store.put_video(db, entry)
            for made in store.read_tracks(db, video):
                store.put_track(db, new, made)
            db.execute("INSERT INTO thumbnails SELECT ?, time_s, jpeg FROM thumbnails WHERE video = ?", (new, video))
        return new

    def spaces(self) -> list[Space]:
        """The models whose vectors are kept."""
        with explained(self.path):
            return [Space(*row) for row in self._db().execute("SELECT kind, model, fingerprint FROM spaces")]

    def thumbnail(self, video: int, time: float) -> bytes | None:
        """The JPEG nearest to a time; None where there is none."""
        with explained(self.path):
            row = (
                self._db()
                .execute("SELECT jpeg FROM thumbnails WHERE video = ? ORDER BY abs(time_s - ?) LIMIT 1", (video, time))
                .fetchone()
            )
        return None if row is None else row[0]

    # -------------------------------------------------------------------------------------------------- search

    def search(self, query: str, *, by: By = "all", limit: int = 10, where: Filter | None = None) -> Hits:
        """Find the moments that a question is about, the best first.

        Args:
            query: words, and "phrases" in quotation marks, which must occur. No other sign has a meaning.
            by: one source alone, or all of them, fused by reciprocal rank.
            where: the part that is searched.

        Sources that could not be asked are named in the ``notes`` of what is returned. Raises ``ValueError`` for an
        empty query and for a single source that is not there.
        """
        asked = Query.parse(query)
        if by not in get_args(By):
            raise ValueError(f"by must be one of {', '.join(get_args(By))}, got {by!r}")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_HITS:
            raise ValueError(f"the number of hits must be from 1 to {MOST_HITS}, got {limit!r}")
        with explained(self.path), self._reading() as (db, view):
            return _Search(db, view, self.models, asked, where or Filter(), limit).run(by)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, View]]:
        """A connection that sees one moment of the file, and what is held in memory of it."""
        db = self._db()
        db.execute("BEGIN")
        try:
            version = version_of(db)
            with self._lock:
                view = self._view
                if view is None or view.version != version:
                    view = View.load(db, view)
                    for space in view.spaces:
                        space.load_new(db)
                    self._view = view
            yield db, view
        finally:
            db.execute("ROLLBACK")


class _Search:
    """One search."""

    def __init__(
        self,
        db: sqlite3.Connection,
        view: View,
        models: dict[Source, Embedder | None],
        query: Query,
        where: Filter,
        limit: int,
    ) -> None:
        self._db, self._view, self._models, self._query, self._where = db, view, models, query, where
        self._limit, self._most = limit, max(CANDIDATES, 3 * limit)
        self._allowed = view.allowed(where)
        self._notes: list[str] = []

    def run(self, by: By) -> Hits:
        """Ask the sources, and fuse what they find."""
        sources: tuple[Source, ...] = SOURCES if by == "all" else (by,)
        if not len(self._view.tracks):
            self._notes.append(
                "the index holds no words and no vectors: index with --subtitles auto, --transcribe, --read-text or "
                "--frames MODEL"
            )
        elif not len(self._allowed):
            self._notes.append("the index holds no track of what was asked for")
        if by == "all" and self._query.quoted:
            sources = ("words",)
            self._notes.append("phrases in quotation marks must occur, so only words were searched")
        lists = [self._of(source, alone=len(sources) == 1) for source in sources]
        hits = Hits(self._hit(moment) for moment in fuse(lists)[: self._limit])
        hits.notes = tuple(self._notes)
        return hits

    def _of(self, source: Source, *, alone: bool) -> list[Candidate]:
        if source == "words":
            if alone and not self._query.phrases:
                raise ValueError(f"{NO_WORD}: write letters or digits, or search by meaning")
            if not self._query.phrases:
                self._notes.append(f"words were not searched: {NO_WORD}")
            return by_words(self._db, self._view, self._allowed, self._query, self._where, self._most)
        space, missing = self._space(source)
        if space is None:
            if alone:
                raise ValueError(f"{source} cannot be searched: {missing}")
            if source == "meaning" or self._kept(source):
                self._notes.append(f"{source} was not searched: {missing}")
            return []
        model = self._models[source]
        assert model is not None
        most = 3 * self._most if source == "frames" else self._most
        found = by_vectors(self._db, self._view, self._allowed, space, model, self._query, self._where, most)
        return scenes(found) if source == "frames" else found

    def _space(self, source: Source) -> tuple[SpaceView | None, str]:
        """The vectors that a source searches, or why it cannot."""
        model = self._models[source]
        of_kind = self._kept(source)
        if not of_kind:
            what = (
                "of frames (index with --frames MODEL)" if source == "frames" else "of meaning (index with --meaning)"
            )
            return None, f"the index holds no vectors {what}"
        made = ", ".join(one.space.model or "a model without a name" for one in of_kind)
        if model is None:
            return None, f"the model that made its vectors is not at hand: {made}"
        found = next((one for one in of_kind if one.space.fingerprint == model.fingerprint), None)
        if found is None:
            return None, f"its vectors were made by {made}, and the question would be read by {model.name}"
        return found, ""

    def _kept(self, source: Source) -> list[SpaceView]:
        """The vectors that are kept for a source."""
        kind = "frames" if source == "frames" else "text"
        return [one for one in self._view.spaces if one.space.kind == kind]

    def _passage(self, found: Candidate) -> str:
        """The text of a passage: that of the cues in it."""
        rows = self._db.execute(
            "SELECT text FROM cues WHERE track = ? AND start_s BETWEEN ? AND ? AND end_s <= ? ORDER BY id LIMIT 100",
            (found.track, found.start, found.end, found.end),
        )
        return " ".join(dict.fromkeys(" ".join(row[0].split()) for row in rows))

    def _hit(self, moment: Moment) -> Hit:
        best = moment.best
        said = self._passage(best) if best.source == "meaning" else best.text
        text, marks = snippet(said, self._query.phrases)
        return Hit(
            video=best.video,
            path=self._view.tracks[best.track].path,
            start=moment.start,
            end=moment.end,
            track=best.kind,
            text=text,
            marks=marks,
            score=moment.score,
            scores=moment.to_scores(),
        )
