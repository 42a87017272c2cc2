"""Read tables: rows of named cells from CSV, TSV, JSON lines, Parquet, or a text file with one value on a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from videoxl.errors import ManyVideosError, MissingDependencyError
from videoxl.json_lines import split_lines
from videoxl.many.places import Place, place_of
from videoxl.storage import StoragePath

NEEDS_PYARROW = "{} needs pyarrow: pip install 'videoxl[parquet]', or use .csv or .jsonl"


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    place: str
    """``list.csv, line 3``: how messages name it."""
    cells: Mapping[str, object]
    problem: str | None = None
    """Why the row cannot be read; then it has no cells."""


@dataclass(frozen=True)
class Table:
    """The rows of a file."""

    path: Place
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def require(self, column: str, option: str) -> None:
        """Raise :class:`ManyVideosError` unless there is such a column. ``option``: the one that names another."""
        if column not in self.columns:
            had = ", ".join(self.columns) or "none"
            raise ManyVideosError(f"{self.path} has no column {column!r}; it has: {had}; name one by {option}")

    def texts(self, column: str) -> Iterator[tuple[Row, str, str | None]]:
        """Yield every row with the text of a cell and, where there is none, what is wrong."""
        for row in self.rows:
            value = row.cells.get(column)
            if row.problem is not None:
                yield row, "", row.problem
            elif isinstance(value, str) and value.strip():
                yield row, value.strip(), None
            else:
                found = "nothing" if value is None or value == "" else repr(value)
                yield row, "", f"{row.place}: column {column!r} must hold text, it holds {found}"


def is_table(path: str | Path) -> bool:
    """Whether a file is read as a table, by the end of its name."""
    return PurePosixPath(path).suffix.lower() in _READERS


def read_table(path: str | Path | StoragePath, only_column: str) -> Table:
    """Read a table. ``only_column``: the name of the one column of a text file.

    A row that cannot be read has a ``problem``. Raises :class:`ManyVideosError` for a file of which none can.
    """
    path = place_of(path)
    try:
        table = _READERS[path.suffix.lower()](path, only_column)
    except OSError as error:
        raise ManyVideosError(f"{path} cannot be read: {error.strerror or error}") from error
    if not table.rows:
        raise ManyVideosError(f"{path} has no rows")
    return table


def _text_of(path: Place) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManyVideosError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from None


def _separated(path: Place, only_column: str) -> Table:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(_text_of(path), newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    try:
        columns = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if cells:
                rows.append(_separated_row(f"{path}, line {reader.line_num}", columns, cells))
    except csv.Error as error:
        raise ManyVideosError(f"{path}, line {reader.line_num} cannot be read: {error}; mend that line") from None
    if twice := {name for name in columns if columns.count(name) > 1}:
        raise ManyVideosError(f"{path} has several columns named {', '.join(sorted(map(repr, twice)))}; rename them")
    return Table(path, tuple(columns), tuple(rows))


def _separated_row(place: str, columns: list[str], cells: list[str]) -> Row:
    if len(cells) != len(columns):
        return Row(place, {}, f"{place} has {len(cells)} cells, the first line names {len(columns)} columns")
    return Row(place, dict(zip(columns, cells)))


def _json_lines(path: Place, only_column: str) -> Table:
    lines = split_lines(path.read_bytes(), str(path))
    rows, columns = [], dict[str, None]()
    for line in (*lines.whole, *([lines.cut] if lines.cut else [])):
        try:
            cells = line.parse(ManyVideosError)
        except ManyVideosError as error:
            rows.append(Row(line.place, {}, str(error)))
            continue
        rows.append(Row(line.place, cells))
        columns |= dict.fromkeys(cells)
    return Table(path, tuple(columns), tuple(rows))


def _lines_of_text(path: Place, only_column: str) -> Table:
    lines = enumerate(_text_of(path).split("\n"), start=1)
    rows = [Row(f"{path}, line {number}", {only_column: line.strip()}) for number, line in lines if line.strip()]
    return Table(path, (only_column,), tuple(rows))


def _parquet(path: Place, only_column: str) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingDependencyError(NEEDS_PYARROW.format(path)) from None
    try:
        content = pyarrow.BufferReader(path.read_bytes()) if isinstance(path, StoragePath) else path
        table = parquet.read_table(content)
    except pyarrow.ArrowException as error:
        raise ManyVideosError(f"{path} is no Parquet file that can be read: {' '.join(str(error).split())}") from None
    rows = [Row(f"{path}, row {number}", cells) for number, cells in enumerate(table.to_pylist(), start=1)]
    return Table(path, tuple(table.column_names), tuple(rows))


_READERS: dict[str, Callable[[Place, str], Table]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
    ".txt": _lines_of_text,
}
"""End of a file's name -> how it is read."""
