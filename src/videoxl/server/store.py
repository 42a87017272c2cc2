"""What a server keeps: a SQLite catalogue, and files beside it. One front writes; a lock keeps a second one out.

``files/SHA256`` are uploads, ``memories/KEY.vxl`` what was read of them, ``incoming/`` what is not complete. A row is
written after its file is in place, so that a kill at any moment leaves at most a file that nothing names, which the
next start removes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from videoxl.errors import VideoXLError

FORMAT = 1
MAX_ATTEMPTS = 3
"""A reading that took its worker along so often is not tried again."""
WAITING = ("queued", "in_progress")
LOCKED_SECONDS = 1.0
"""How long is waited for another program that holds the catalogue, such as a backup."""
TABLES = """
CREATE TABLE files (id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL, purpose TEXT NOT NULL, created INTEGER NOT NULL);
CREATE INDEX files_by_content ON files (sha256);
CREATE TABLE uploads (id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL,
    purpose TEXT NOT NULL, status TEXT NOT NULL, created INTEGER NOT NULL, file_id TEXT);
CREATE TABLE parts (id TEXT PRIMARY KEY, upload_id TEXT NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    bytes INTEGER NOT NULL, created INTEGER NOT NULL);
CREATE TABLE memories (id TEXT PRIMARY KEY, owner TEXT NOT NULL, file_id TEXT NOT NULL, key TEXT NOT NULL,
    settings TEXT NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL, facts TEXT NOT NULL,
    error_code TEXT, error_message TEXT, created REAL NOT NULL, finished REAL);
CREATE INDEX memories_by_status ON memories (status, created);
CREATE INDEX memories_by_key ON memories (key);
"""


class StoreError(VideoXLError):
    """The folder of a server cannot be used."""

    exit_code = 2
    code = "server_data"


@dataclass(frozen=True)
class StoredFile:
    """An upload. ``created`` is in seconds since 1970."""

    id: str
    owner: str
    name: str
    bytes: int
    sha256: str
    purpose: str
    created: int


@dataclass(frozen=True)
class Upload:
    """An upload in parts; ``status`` is pending, completed or cancelled."""

    id: str
    owner: str
    name: str
    bytes: int
    purpose: str
    status: str
    created: int
    file_id: str | None = None


@dataclass(frozen=True)
class MemoryJob:
    """A memory, or the reading that will make it."""

    id: str
    owner: str
    file_id: str
    key: str
    """Names the memory file: content, settings and model."""
    settings: dict[str, Any]
    status: str
    """queued, in_progress, ready, failed or cancelled."""
    attempts: int
    facts: dict[str, Any] = field(default_factory=dict)
    """Once it is ready: frames, tokens, seconds, bytes, warnings."""
    error_code: str | None = None
    error_message: str | None = None
    created: float = 0.0
    finished: float | None = None


class Store:
    """The catalogue of a server. All methods may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`StoreError` where another server works, and for a catalogue of a newer version."""
        self.folder = folder
        self.on_kept: Callable[[Path], None] = lambda path: None
        """Told where a file that came, or a memory that was read, lies ..."""
        self.on_removed: Callable[[Path], None] = lambda path: None
        """... and what is there no more."""
        try:
            for name in ("files", "memories", "incoming"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise StoreError(f"{folder} cannot be a server's folder ({error.strerror}): give another --data") from None
        self._lock_file = open(folder / "lock", "w")  # noqa: SIM115  held as long as the server lives
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{folder} is in use by another server: stop that one, or give another --data") from None
        self._lock = threading.RLock()
        self._completing: set[str] = set()
        self._db = self._open()
        self.secret = self._secret()
        self._clean()

    def _open(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(
                self.folder / "catalogue.db", timeout=LOCKED_SECONDS, check_same_thread=False, isolation_level=None
            )
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA foreign_keys=ON")
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found > FORMAT:
                raise StoreError(
                    f"{self.folder} was written by a newer version of videoxl (format {found}, this reads {FORMAT}): "
                    "use that one, or another --data"
                )
            if found == 0:
                db.executescript(f"BEGIN; {TABLES} PRAGMA user_version={FORMAT}; COMMIT;")
        except sqlite3.Error as error:
            raise StoreError(f"{self.folder / 'catalogue.db'} cannot be used: {error}") from None
        return db

    def _secret(self) -> bytes:
        """What links are signed with: made once, readable by this user only."""
        path = self.folder / "secret"
        if not path.exists():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        return path.read_bytes()

    def _clean(self) -> None:
        """What a killed server left: readings that were in work are queued again, files without a row removed."""
        with self._changing() as db:
            db.execute(
                "UPDATE memories SET status='failed', error_code='worker_lost', finished=?, error_message="
                "'the worker ended each time it read this video' WHERE status='in_progress' AND attempts>=?",
                (time.time(), MAX_ATTEMPTS),
            )
            db.execute("UPDATE memories SET status='queued' WHERE status='in_progress'")
        known = {row[0] for row in self._rows("SELECT sha256 FROM files")}
        keys = {row[0] for row in self._rows("SELECT key FROM memories")}
        parts = {row[0] for row in self._rows("SELECT id FROM parts")}
        for path in (self.folder / "files").iterdir():
            if path.name not in known:
                path.unlink()
        for path in (self.folder / "memories").iterdir():
            if path.name.removesuffix(".vxl") not in keys:
                path.unlink()
        for path in (self.folder / "incoming").iterdir():
            if path.name not in parts:
                path.unlink()

    def close(self) -> None:
        """Let the next server have the folder."""
        with self._lock:
            self._db.close()
            self._lock_file.close()

    # ---------------------------------------------------------------------------------------------------- paths

    def incoming(self, name: str = "") -> Path:
        """Where something is put together; ``name``: of a part."""
        return self.folder / "incoming" / (name or secrets.token_hex(16))

    def path_of(self, file: StoredFile) -> Path:
        """Where the content of an upload lies."""
        return self.folder / "files" / file.sha256

    def memory_path(self, key: str) -> Path:
        """Where a memory lies, or will lie."""
        return self.folder / "memories" / f"{key}.vxl"

    def indexable(self) -> list[Path]:
        """Where all files and all memories that were read lie, the newest first."""
        files = self._rows("SELECT DISTINCT sha256 FROM files ORDER BY created DESC")
        keys = self._rows("SELECT DISTINCT key FROM memories WHERE status='ready' ORDER BY created DESC")
        return [*(self.folder / "files" / row[0] for row in files), *(self.memory_path(row[0]) for row in keys)]

    # ---------------------------------------------------------------------------------------------------- files

    def add_file(self, content: Path, owner: str, name: str, sha256: str, purpose: str) -> StoredFile:
        """Take over a complete file. The same content of the same owner is the same file."""
        file_id = f"file-{_short_hash(owner, sha256)}"
        size = content.stat().st_size
        with self._changing() as db:
            os.replace(content, self.folder / "files" / sha256)
            values = (file_id, owner, name, size, sha256, purpose, int(time.time()))
            db.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", values)
        found = self.file(file_id, owner)
        if found is None:
            raise StoreError(f"{file_id} was not kept")
        self.on_kept(self.path_of(found))
        return found

    def file(self, file_id: str, owner: str) -> StoredFile | None:
        """An upload of this owner."""
        rows = self._rows("SELECT * FROM files WHERE id=? AND owner=?", (file_id, owner))
        return StoredFile(*rows[0]) if rows else None

    def files(self, owner: str) -> list[StoredFile]:
        """Uploads of this owner, the newest first."""
        return [
            StoredFile(*row) for row in self._rows("SELECT * FROM files WHERE owner=? ORDER BY rowid DESC", (owner,))
        ]

    def delete_file(self, file: StoredFile) -> None:
        """Remove an upload; its content goes with the last one that has it. Memories of it stay."""
        with self._changing() as db:
            db.execute("DELETE FROM files WHERE id=?", (file.id,))
            if db.execute("SELECT 1 FROM files WHERE sha256=?", (file.sha256,)).fetchone():
                return
            self.path_of(file).unlink(missing_ok=True)
        self.on_removed(self.path_of(file))

    # -------------------------------------------------------------------------------------------------- uploads

    def add_upload(self, owner: str, name: str, size: int, purpose: str) -> Upload:
        """Begin an upload in parts."""
        upload = Upload(f"upload-{secrets.token_hex(12)}", owner, name, size, purpose, "pending", int(time.time()))
        values = (upload.id, owner, name, size, purpose, upload.status, upload.created, None)
        with self._changing() as db:
            db.execute("INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        return upload

    def upload(self, upload_id: str, owner: str) -> Upload | None:
        """An upload in parts of this owner."""
        rows = self._rows("SELECT * FROM uploads WHERE id=? AND owner=?", (upload_id, owner))
        return Upload(*rows[0]) if rows else None

    def add_part(self, upload: Upload, content: Path) -> tuple[str, int] | None:
        """Keep a part; its id and its bytes. None where the upload has ended meanwhile."""
        part_id, size = f"part-{secrets.token_hex(12)}", content.stat().st_size
        with self._changing() as db:
            if not db.execute("SELECT 1 FROM uploads WHERE id=? AND status='pending'", (upload.id,)).fetchone():
                return None
            os.replace(content, self.incoming(part_id))
            db.execute("INSERT INTO parts VALUES (?, ?, ?, ?)", (part_id, upload.id, size, int(time.time())))
        return part_id, size

    def parts(self, upload: Upload) -> list[tuple[str, int]]:
        """Ids and bytes of the parts that came, in the order in which they came."""
        return self._rows("SELECT id, bytes FROM parts WHERE upload_id=? ORDER BY rowid", (upload.id,))

    @contextmanager
    def completing(self, upload: Upload) -> Iterator[bool]:
        """While its parts are put together; yields whether nobody else does that."""
        with self._lock:
            free = upload.id not in self._completing
            self._completing |= {upload.id}
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._completing.discard(upload.id)

    def end_old_uploads(self, before: float) -> None:
        """Cancel uploads in parts that began before a time and were not completed."""
        for row in self._rows("SELECT * FROM uploads WHERE status='pending' AND created<?", (before,)):
            self.end_upload(Upload(*row), "cancelled")

    def end_upload(self, upload: Upload, status: str, file_id: str | None = None) -> None:
        """Complete or cancel an upload; its parts are removed."""
        with self._changing() as db:
            parts = self.parts(upload)
            db.execute("UPDATE uploads SET status=?, file_id=? WHERE id=?", (status, file_id, upload.id))
            db.execute("DELETE FROM parts WHERE upload_id=?", (upload.id,))
        for part_id, _ in parts:
            self.incoming(part_id).unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------- memories

    def add_memory(self, file: StoredFile, key: str, settings: dict[str, Any]) -> MemoryJob:
        """The memory of a file, read with these settings: a new reading only where there is none that may succeed."""
        memory_id = memory_id_of(file.owner, key)
        values = (memory_id, file.owner, file.id, key, json.dumps(settings), "queued", 0, "{}", time.time())
        with self._changing() as db:
            db.execute(
                "INSERT INTO memories (id, owner, file_id, key, settings, status, attempts, facts, created) VALUES "
                "(?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET status='queued', attempts=0, "
                "finished=NULL, error_code=NULL, error_message=NULL, created=excluded.created, "
                "file_id=excluded.file_id WHERE status IN ('failed', 'cancelled')",
                values,
            )
        return self.required_memory(memory_id)

    def memory(self, memory_id: str, owner: str) -> MemoryJob | None:
        """A memory of this owner."""
        found = self._memories("WHERE id=? AND owner=?", (memory_id, owner))
        return found[0] if found else None

    def remove_unmade(self, key: str) -> None:
        """Remove the file of a memory that nobody has or waits for."""
        with self._changing() as db:
            if not db.execute(
                "SELECT 1 FROM memories WHERE key=? AND status NOT IN ('failed', 'cancelled')", (key,)
            ).fetchone():
                self.memory_path(key).unlink(missing_ok=True)

    def required_memory(self, memory_id: str) -> MemoryJob:
        """A memory that is there."""
        return self._memories("WHERE id=?", (memory_id,))[0]

    def any_memory(self, memory_id: str) -> MemoryJob | None:
        """A memory, whoever it belongs to."""
        found = self._memories("WHERE id=?", (memory_id,))
        return found[0] if found else None

    def memories(self, owner: str) -> list[MemoryJob]:
        """Memories of this owner, the newest first."""
        return self._memories("WHERE owner=? ORDER BY created DESC", (owner,))

    def count_memories(self, owner: str) -> int:
        """Number of memories of this owner."""
        return int(self._rows("SELECT count(*) FROM memories WHERE owner=?", (owner,))[0][0])

    def is_made(self, owner: str, key: str) -> bool:
        """Whether there is a memory, or a reading that may succeed."""
        return bool(
            self._rows(
                "SELECT 1 FROM memories WHERE owner=? AND key=? AND status NOT IN ('failed', 'cancelled')", (owner, key)
            )
        )

    def waiting(self) -> int:
        """Number of readings that are queued."""
        return int(self._rows("SELECT count(*) FROM memories WHERE status='queued'")[0][0])

    def adopt_memory(self, owner: str, sha256: str, key: str, settings: dict[str, Any], facts: dict[str, Any]) -> str:
        """A memory that another server has read: it waits to be fetched. Returns its id."""
        memory_id, file_id = memory_id_of(owner, key), f"file-{_short_hash(owner, sha256)}"
        values = (memory_id, owner, file_id, key, json.dumps(settings), "queued", 0, json.dumps(facts), time.time())
        with self._changing() as db:
            db.execute(
                "INSERT INTO memories (id, owner, file_id, key, settings, status, attempts, facts, created) VALUES "
                "(?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                values,
            )
        return memory_id

    def begin_next(self) -> tuple[MemoryJob, StoredFile | None] | None:
        """Begin the reading that waits longest. Where its file has gone, it fails, and the next one is begun.

        What another worker reads at this moment, for another owner, is not begun: it will be there. Without a file:
        what another server has read is fetched.
        """
        new = "status='queued' AND key NOT IN (SELECT key FROM memories WHERE status='in_progress')"
        with self._changing() as db:
            while found := self._memories(f"WHERE {new} ORDER BY created LIMIT 1"):
                job = found[0]
                file = self.file(job.file_id, job.owner)
                if file is not None or job.facts:
                    db.execute("UPDATE memories SET status='in_progress', attempts=attempts+1 WHERE id=?", (job.id,))
                    return self.required_memory(job.id), file
                self.fail_memory(job.id, "file_missing", f"the file {job.file_id} was deleted before it was read")
        return None

    def finish_memory(self, memory_id: str, facts: dict[str, Any]) -> bool:
        """A reading is done. Returns False where it was cancelled or deleted meanwhile."""
        done = self._settle(memory_id, "status='ready', facts=?", json.dumps(facts))
        if done:
            self.on_kept(self.memory_path(self.required_memory(memory_id).key))
        return done

    def fail_memory(self, memory_id: str, code: str, message: str) -> bool:
        """A reading came to nothing."""
        status = "cancelled" if code == "cancelled" else "failed"
        return self._settle(memory_id, f"status='{status}', error_code=?, error_message=?", code, message)

    def requeue_memory(self, memory_id: str) -> None:
        """A reading whose worker was lost is tried again, or fails after :data:`MAX_ATTEMPTS`."""
        if (job := self.any_memory(memory_id)) is None:
            return
        if job.attempts >= MAX_ATTEMPTS:
            self.fail_memory(memory_id, "worker_lost", "the worker ended each time it read this video")
        else:
            with self._changing() as db:
                db.execute("UPDATE memories SET status='queued' WHERE id=? AND status='in_progress'", (memory_id,))

    def delete_memory(self, job: MemoryJob) -> bool:
        """Remove a memory. Returns whether its file went too: another owner may have the same."""
        with self._changing() as db:
            db.execute("DELETE FROM memories WHERE id=?", (job.id,))
            if db.execute("SELECT 1 FROM memories WHERE key=?", (job.key,)).fetchone():
                return False
            self.memory_path(job.key).unlink(missing_ok=True)
        self.on_removed(self.memory_path(job.key))
        return True

    def stored_bytes(self, owner: str) -> int:
        """Bytes of the files, parts and memories of an owner."""
        files = self._rows("SELECT coalesce(sum(bytes), 0) FROM files WHERE owner=?", (owner,))[0][0]
        of_parts = "SELECT coalesce(sum(parts.bytes), 0) FROM parts JOIN uploads ON uploads.id=upload_id WHERE owner=?"
        made = "SELECT coalesce(sum(json_extract(facts, '$.bytes')), 0) FROM memories WHERE owner=?"
        return int(files + self._rows(of_parts, (owner,))[0][0] + self._rows(made, (owner,))[0][0])

    # -------------------------------------------------------------------------------------------------- helpers

    def _settle(self, memory_id: str, change: str, *values: str) -> bool:
        with self._changing() as db:
            done = db.execute(
                f"UPDATE memories SET {change}, finished=? WHERE id=? AND status IN ('queued', 'in_progress')",
                (*values, time.time(), memory_id),
            )
            return done.rowcount > 0

    def _memories(self, where: str, values: tuple[Any, ...] = ()) -> list[MemoryJob]:
        rows = self._rows(f"SELECT * FROM memories {where}", values)
        names = [one.name for one in fields(MemoryJob)]
        return [_memory(dict(zip(names, row, strict=True))) for row in rows]

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; within another, a part of it."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


def _memory(row: dict[str, Any]) -> MemoryJob:
    return MemoryJob(**{**row, "settings": json.loads(row["settings"]), "facts": json.loads(row["facts"])})


def memory_id_of(owner: str, key: str) -> str:
    """The id of an owner's memory: the same on every server."""
    return f"mem-{_short_hash(owner, key)}"


def _short_hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
