"""A file of records that a run appends to, and that a resumed run goes on with.

The rows are JSON lines, here or in a storage. A table (``.csv``, ``.parquet``) cannot be appended to safely. So its
rows are kept beside it, as ``answers.csv.jsonl``, and the table is written whole when the run ends.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Generic

from videoxl.errors import ManyVideosError, MemoryFileError, MissingDependencyError
from videoxl.json_lines import dump_line, split_lines
from videoxl.line_file import LineFile, differences
from videoxl.many.places import Place, place_of
from videoxl.many.record import Json, R
from videoxl.many.stored_lines import StoredLines
from videoxl.many.tables import NEEDS_PYARROW
from videoxl.memory.file.atomic import replacing, write_at
from videoxl.storage import StoragePath

TEXTS = ("video", "model", "question", "answer", "memory", "error", "key")
"""Columns of a table that are text. All others hold JSON, so that their types never change."""
OUTPUTS = (".jsonl", ".csv", ".parquet")
"""Ends of names that an output may have."""


class RowFile(Generic[R]):
    """Records by video and key, each on the disk before :meth:`add` returns. The file is locked while it is open."""

    def __init__(
        self, path: str | os.PathLike[str] | StoragePath | None, kind: type[R], *, resume: bool = False
    ) -> None:
        """Open or create the file.

        Args:
            path: None keeps nothing beyond the run.
            resume: go on with a file that exists. Rows with an error are removed: they are to be tried again.

        Raises :class:`ManyVideosError` if the file exists and ``resume`` is false, holds something else, or is being
        written by another process; :class:`MissingDependencyError` where a package for it is not installed.
        """
        self.path = None if path is None else place_of(path)
        self.kind = kind
        self._rows: dict[tuple[str, str], R] = {}
        self._by_key: dict[str, R] = {}
        self._settings: Json | None = None
        self._replaced = False
        self._file = self._opened(self._checked(resume), resume)
        try:
            if self.path is not None:
                self._take_rows()
        except BaseException:
            self._file.close()
            raise

    def _opened(self, lines: Place | None, resume: bool) -> LineFile | StoredLines:
        if not isinstance(lines, StoragePath):
            return LineFile(lines, ManyVideosError)
        file = StoredLines(lines)
        if not resume and not file.is_empty():
            raise ManyVideosError(_EXISTS.format(lines))
        return file

    def _checked(self, resume: bool) -> Place | None:
        """Where the lines are. Nothing is opened or removed before everything that can be wrong is known."""
        if self.path is None:
            if resume:
                raise ManyVideosError("nothing to resume: name the output of the run before (-o answers.jsonl)")
            return None
        suffix = self.path.suffix.lower()
        if suffix not in OUTPUTS:
            raise ManyVideosError(f"{self.path}: the name of an output ends in {', '.join(OUTPUTS)}")
        if suffix == ".parquet":
            require_pyarrow(self.path)
        lines = self.path if suffix == ".jsonl" else self.path.with_name(f"{self.path.name}.jsonl")
        for there in (self.path, lines):
            if not resume and _holds_something(there):
                raise ManyVideosError(_EXISTS.format(there))
        if resume and self.path != lines and self.path.exists() and not lines.exists():
            raise ManyVideosError(f"{self.path} cannot be resumed without {lines}, which holds its rows")
        return lines

    def _take_rows(self) -> None:
        lines = self._file.content() and self._parsed()
        if not lines:
            return
        for row in lines:
            if row.error is None:
                self._keep(row)
        if len(self._rows) < len(lines):
            self._rewrite(self._rows.values())

    def _parsed(self) -> list[R]:
        """All rows, which are checked before a cut one is removed."""
        rows = []
        for line in split_lines(self._file.content(), str(self._file.path)).whole:
            line.parse(ManyVideosError)
            try:
                rows.append(self.kind.from_json(line.data))
            except ValueError as error:
                raise ManyVideosError(
                    f"{line.place} is no row that this version writes ({error}): name another file"
                ) from None
        self._file.mend()
        return rows

    def _rewrite(self, rows: Iterable[R]) -> None:
        """Leave only some rows. A kill leaves either all or these."""
        content = b"".join(dump_line(row.to_dict()) for row in rows)
        if isinstance(self._file, StoredLines):
            self._file.rewrite(content)
            return
        _write_whole(self._file.path, content)
        self._file.close()
        self._file = LineFile(self._file.path, ManyVideosError)

    def check_settings(self, settings: Json) -> None:
        """Raise :class:`ManyVideosError` when the rows that are there were made with other settings."""
        now = json.loads(dump_line(settings))
        if self._settings is not None and (different := differences(self._settings, now)):
            raise ManyVideosError(
                f"{self.path} was made with other settings: {'; '.join(different)}. Give the same, or name another file"
            )

    @property
    def rows(self) -> list[R]:
        """Rows that are finished."""
        return [*self._rows.values()]

    @property
    def settings(self) -> Json | None:
        """Those of the rows that are there."""
        return self._settings

    def take(self, rows: Iterable[R]) -> None:
        """Count rows of another file as done."""
        for row in rows:
            self._keep(row)

    def done(self, video: str, key: str) -> R | None:
        """The finished row of a video; None if it is still to be done."""
        return self._rows.get((video, key))

    def done_for_another(self, key: str) -> R | None:
        """A finished row with the same key, of whatever video."""
        return self._by_key.get(key)

    def add(self, row: R) -> R:
        """Write a row."""
        self._file.append(row.to_dict())
        if row.error is None:
            self._keep(row)
        return row

    def _keep(self, row: R) -> None:
        before = self._rows.get((row.video, row.key))
        self._replaced = self._replaced or before is not None
        self._rows[row.video, row.key] = row
        if self._by_key.get(row.key) in (None, before):
            self._by_key[row.key] = row
        self._settings = self._settings or row.settings

    def __len__(self) -> int:
        return len(self._rows)

    def release(self) -> None:
        """Close the file and leave everything as it is."""
        self._file.close()

    def close(self) -> None:
        """Write the table, where the output is one, and close the file."""
        try:
            self._leave_each_once()
            if self.path is not None and self.path != self._file.path:
                rows = [self.kind.from_json(line.data).to_dict() for line in self._file.mend().whole]
                write = _write_parquet if self.path.suffix.lower() == ".parquet" else _write_csv
                write(self.path, rows, [*self.kind.__dataclass_fields__])  # type: ignore[attr-defined]
        finally:
            self._file.close()

    def _leave_each_once(self) -> None:
        """Remove rows that others replaced, and put together what lies in parts."""
        if self.path is None or not (self._replaced or isinstance(self._file, StoredLines)):
            return
        last = {(row.video, row.key): row for row in self._parsed()}
        self._rewrite(last.values())

    def __enter__(self) -> RowFile[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # the error that came first is told
            self.close()


_EXISTS = "{} exists: go on with it (--resume), name another file, or remove it"


def _holds_something(place: Place) -> bool:
    if isinstance(place, StoragePath):
        return place.kind() == "file" and place.size() > 0
    return place.is_file() and place.stat().st_size > 0


def require_pyarrow(path: Place) -> None:
    """Raise :class:`MissingDependencyError` where Parquet cannot be written."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingDependencyError(NEEDS_PYARROW.format(path)) from None


def _write_csv(path: Place, rows: Sequence[Json], columns: Sequence[str]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(name, row[name]) for name in columns])
    _write_whole(path, text.getvalue().encode(errors="backslashreplace"))


def _cell(name: str, value: object) -> object:
    """Text as it is, nothing as an empty cell, everything else as JSON."""
    return value if value is None or name in TEXTS else json.dumps(value, ensure_ascii=False)


def _write_parquet(path: Place, rows: Sequence[Json], columns: Sequence[str]) -> None:
    """Every column is text but for ``warnings``, a list of it. What is not text is JSON: so the types never change."""
    import pyarrow
    from pyarrow import parquet

    texts = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema([(name, texts if name == "warnings" else pyarrow.string()) for name in columns])
    cells = [
        {name: _encodable(row[name] if name == "warnings" else _cell(name, row[name])) for name in columns}
        for row in rows
    ]
    content = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(cells, schema=schema), content)
    _write_whole(path, content.getvalue().to_pybytes())


def _encodable(value: object) -> object:
    """Half characters, which names of files may hold and UTF-8 cannot, as escapes."""
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _write_whole(path: Place, content: bytes) -> None:
    if isinstance(path, StoragePath):
        path.write(content)
        return
    try:
        with replacing(path, len(content)) as descriptor:
            write_at(descriptor, content, 0)
    except MemoryFileError as error:
        raise ManyVideosError(f"{path} was not written: {error.__cause__ or error}") from error
