"""The SQLite file of a catalogue: its tables, how it is opened, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from videoxl.errors import CatalogueError

APPLICATION_ID = 0x5658_4C43
"""Tells a catalogue from any other SQLite file: ``VXLC``."""
BUSY_S = 30.0
"""Seconds that a writer waits for another one."""
PAGE_BYTES = 8192
"""Three vectors of 1152 dimensions fit."""
FULL = "there is no room for it on the disk; what was indexed before is untouched: make room and index again"

MIGRATIONS = (
    """
    CREATE TABLE videos (
        id INTEGER PRIMARY KEY,
        path BLOB NOT NULL UNIQUE,          -- bytes, as the system has them: a name need not be UTF-8
        digest TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        duration REAL,                      -- seconds
        state TEXT NOT NULL CHECK (state IN ('ready', 'failed', 'gone')),
        problem TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX videos_by_digest ON videos (digest);
    CREATE TABLE catalogue (version INTEGER NOT NULL);
    INSERT INTO catalogue VALUES (0);
    CREATE TABLE spaces (                   -- where vectors of one model live
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('text', 'frames')),
        model TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        width INTEGER NOT NULL,
        centre BLOB NOT NULL,               -- float32, of which codes say on which side a vector lies
        UNIQUE (kind, fingerprint)
    );
    CREATE TABLE tracks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: readers know a track by it
        video INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
        kind TEXT NOT NULL CHECK (kind IN ('subtitles', 'speech', 'screen', 'frames')),
        settings TEXT NOT NULL,             -- how it was made
        language TEXT NOT NULL,
        source TEXT NOT NULL,
        notes TEXT NOT NULL,                -- a sentence a line
        first_cue INTEGER NOT NULL,
        cues INTEGER NOT NULL,              -- numbered from first_cue on, without a gap
        space INTEGER REFERENCES spaces (id),
        first_vector INTEGER NOT NULL,
        vectors INTEGER NOT NULL,
        times BLOB NOT NULL,                -- float64, begin and end of each vector
        code_words BLOB NOT NULL,           -- of videoxl.catalogue.codes, for each vector
        code_scales BLOB NOT NULL,
        UNIQUE (video, kind)
    );
    CREATE TABLE cues (
        id INTEGER PRIMARY KEY,
        track INTEGER NOT NULL REFERENCES tracks (id) ON DELETE CASCADE,
        start_s REAL NOT NULL,
        end_s REAL NOT NULL,
        text TEXT NOT NULL,
        confidence REAL,
        box TEXT                            -- left, top, right, bottom from 0 to 1, as JSON
    );
    CREATE INDEX cues_by_track ON cues (track, start_s);
    CREATE TABLE vectors (
        id INTEGER PRIMARY KEY,
        track INTEGER NOT NULL REFERENCES tracks (id) ON DELETE CASCADE,
        vector BLOB NOT NULL                -- float16, of length 1
    );
    CREATE INDEX vectors_by_track ON vectors (track);
    CREATE TABLE thumbnails (
        video INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
        time_s REAL NOT NULL,
        jpeg BLOB NOT NULL
    );
    CREATE INDEX thumbnails_by_video ON thumbnails (video, time_s);
    CREATE VIRTUAL TABLE words USING fts5 (text, content='', tokenize='ascii');
    """,
)
"""Each takes a catalogue from one format to the next. ``words`` holds cues as :mod:`videoxl.catalogue.words` cuts them
into words: what is letter and what is accent is decided there, for cues and questions alike."""
FORMAT = len(MIGRATIONS)


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """Open a catalogue. ``write``: create it where there is none, and bring an older one to this format.

    Raises :class:`CatalogueError` for what is no catalogue, and for one of a newer format.
    """
    if not write and not path.is_file():
        raise CatalogueError(f"there is no index at {path}: make one with videoxl index DIR, or name it (--index FILE)")
    if path.exists() and not path.is_file():
        raise CatalogueError(f"{path} is no regular file: name another file (--index FILE)")
    with explained(path):
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
        db = _opened(path, write)
        try:
            _check(db, path, write)
        except BaseException:
            db.close()
            raise
    return db


def _opened(path: Path, write: bool) -> sqlite3.Connection:
    mode = "rwc" if write else "ro"
    if not write and not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
        mode = "ro&immutable=1"  # a reader of a catalogue with a log makes files beside it, which is not possible here
    name = quote(os.fsencode(path.absolute()))
    # not the connection of one thread: close() closes those of all; each is used by one thread alone
    db = sqlite3.connect(
        f"file:{name}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cache_size = -65536")
        if write and db.execute("PRAGMA user_version").fetchone()[0] == 0:
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # what is committed stays, also when the power fails
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, path: Path, write: bool) -> None:
    found = db.execute("PRAGMA user_version").fetchone()[0]
    mark = db.execute("PRAGMA application_id").fetchone()[0]
    empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if empty and found == 0 and not write:  # made a moment ago, or by a run that was killed at once
        raise CatalogueError(f"there is nothing in the index at {path} so far: index with videoxl index DIR, or wait")
    if not (empty and found == 0) and mark != APPLICATION_ID:
        raise CatalogueError(f"{path} is a database, but no index of videoxl: name another file (--index FILE)")
    if found > FORMAT:
        raise CatalogueError(
            f"{path} was written by a newer videoxl (format {found}; this one reads up to {FORMAT}): update videoxl, "
            "or name another file (--index FILE)"
        )
    if found < FORMAT:
        if not write:
            raise CatalogueError(f"{path} is an index of format {found}: bring it to {FORMAT} with videoxl index")
        _migrate(db)


def _migrate(db: sqlite3.Connection) -> None:
    with transaction(db):
        found = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have been faster
        for script in MIGRATIONS[found:]:
            for statement in script.split(";\n"):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT}")


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it. Waits for another writer."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the system into :class:`CatalogueError`, in one line."""
    try:
        yield
    except sqlite3.Error as error:
        raise CatalogueError(f"{path}: {_meaning(error)}", code=_code(error)) from error
    except OSError as error:
        raise CatalogueError(f"{path} cannot be opened ({error.strerror}): name another file (--index FILE)") from error


def _primary(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _code(error: sqlite3.Error) -> str:
    return "disk_full" if _primary(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR) else "catalogue"


def _meaning(error: sqlite3.Error) -> str:
    kind = _primary(error)
    if kind == sqlite3.SQLITE_FULL:
        return FULL
    if kind == sqlite3.SQLITE_IOERR:
        return f"cannot be read or written ({error}): the disk may be full; what was indexed before is untouched"
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"another process has been writing it for {BUSY_S:.0f} s: wait for it, and try again"
    if kind in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return f"is no index, or is damaged ({error}): name another file (--index FILE), or remove it and index again"
    if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"cannot be opened or written ({error}): check its permissions, or name another file (--index FILE)"
    return f"cannot be used ({error})"
