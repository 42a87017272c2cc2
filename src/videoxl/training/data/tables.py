"""Records as rows of tables: Parquet files, and folders that ``datasets.save_to_disk`` wrote (Arrow files).

A column is a field of the records. Bytes in a row, as Hugging Face's ``Image`` and ``Video`` columns hold them, are
pictures or videos that lie within the record.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

import numpy as np

from videoxl.errors import MissingDependencyError, TrainingDataError
from videoxl.json_lines import read_json
from videoxl.training.data.media import TURNS
from videoxl.training.data.records import Opener, Records

MAX_GROUP_BYTES = 2 * 2**30
"""A row group that becomes larger in memory is refused: it is read whole."""
KEPT_GROUPS, KEPT_BYTES = 6, 2**30
"""How many row groups a process keeps, and how many bytes of them beyond the last one."""
PREFERENCES = ("chosen", "rejected")
UNREADABLE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError)
"""What Arrow raises for files and values it cannot read."""


class TableRecords(Records):
    """The rows of a table."""

    opened: Opener

    def __init__(self, path: str, opened: Opener, folder: str) -> None:
        self.path, self.opened, self.folder = path, opened, folder

    @abstractmethod
    def row(self, number: int) -> dict[str, object]:
        """One row as it is. Raises :class:`TrainingDataError`."""

    def name(self, number: int) -> str:
        return f"{self.file_name}#{number + 1}"

    def read(self, number: int) -> Mapping[str, object]:
        held: dict[str, bytes] = {}
        found = {name: _plain(value, name, held) for name, value in self.row(number).items() if value is not None}
        for name in TURNS:
            found = {**found, name: _turns(found[name])} if name in found else found
        return found

    def held(self, number: int) -> Sequence[str]:
        return tuple(self._bytes(number))

    def copy_held(self, number: int, name: str, target: IO[bytes]) -> None:
        target.write(self._bytes(number)[name])

    def _bytes(self, number: int) -> dict[str, bytes]:
        held: dict[str, bytes] = {}
        for name, value in self.row(number).items():
            _plain(value, name, held)
        return held

    def _check_columns(self, names: Sequence[str]) -> None:
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise TrainingDataError(f"{self.path} has the column {twice!r:.60} twice: keep one of them")
        if not any(name in names for name in TURNS) and not all(name in names for name in PREFERENCES):
            raise TrainingDataError(
                f"{self.path} has no column conversations (or messages; or chosen and rejected); it has "
                f"{', '.join(names):.200}"
            )


class ParquetRecords(TableRecords):
    """The rows of a Parquet file. It is read a row group at a time, and a few of them are kept."""

    def __init__(self, path: str, opened: Opener, folder: str) -> None:
        """Raises :class:`TrainingDataError` for a damaged file, and one without columns that are needed."""
        super().__init__(path, opened, folder)
        parquet = _pyarrow(path).parquet
        try:
            with opened() as local, parquet.ParquetFile(local) as file:
                metadata, names = file.metadata, file.schema_arrow.names
                groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
                rows, sizes = [g.num_rows for g in groups], [g.total_byte_size for g in groups]
        except UNREADABLE as error:
            raise TrainingDataError(f"{path} cannot be read as Parquet ({_one_line(error)}); check the path") from error
        self._check_columns(names)
        if sizes and max(sizes) > MAX_GROUP_BYTES:
            raise TrainingDataError(
                f"{path} has a row group of {max(sizes) / 1e9:.1f} GB, most are {MAX_GROUP_BYTES / 1e9:.1f}: write it "
                "with fewer rows in a group"
            )
        self.ends = np.cumsum([0, *rows])[1:]
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": OrderedDict()}

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def blocks(self) -> np.ndarray | None:
        found: np.ndarray = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))
        return found

    def row(self, number: int) -> dict[str, object]:
        at = int(np.searchsorted(self.ends, number, side="right"))
        begin = int(self.ends[at - 1]) if at else 0
        try:
            table = self._group(at)
            (found,) = table.slice(number - begin, 1).to_pylist()
        except UNREADABLE as error:
            raise TrainingDataError(f"{self.name(number)} cannot be read ({_one_line(error)})") from error
        row: dict[str, object] = found
        return row

    def _group(self, at: int) -> Any:
        if at not in self._kept:
            with self.opened() as local, _pyarrow(self.path).parquet.ParquetFile(local) as file:
                self._kept[at] = file.read_row_group(at, use_threads=False)
            while len(self._kept) > KEPT_GROUPS or (
                len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > KEPT_BYTES
            ):
                self._kept.popitem(last=False)
        self._kept.move_to_end(at)
        return self._kept[at]


class ArrowRecords(TableRecords):
    """The rows of one Arrow file of a saved data set. It is mapped, not read."""

    def __init__(self, path: str, opened: Opener, folder: str) -> None:
        """Raises :class:`TrainingDataError` for a damaged file, and one without columns that are needed."""
        super().__init__(path, opened, folder)
        self._table: Any = None
        table = self._mapped()
        self._check_columns(table.column_names)
        self._count = len(table)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_table": None}

    def __len__(self) -> int:
        return self._count

    def row(self, number: int) -> dict[str, object]:
        try:
            (found,) = self._mapped().slice(number, 1).to_pylist()
        except UNREADABLE as error:
            raise TrainingDataError(f"{self.name(number)} cannot be read ({_one_line(error)})") from error
        row: dict[str, object] = found
        return row

    def _mapped(self) -> Any:
        if self._table is None:
            arrow = _pyarrow(self.path)
            try:
                with self.opened() as local:
                    mapped = arrow.memory_map(local)
                    try:
                        self._table = arrow.ipc.open_stream(mapped).read_all()
                    except ValueError:
                        mapped.seek(0)
                        self._table = arrow.ipc.open_file(mapped).read_all()
                self._table.validate()
            except UNREADABLE as error:
                raise TrainingDataError(f"{self.path} cannot be read as Arrow ({_one_line(error)})") from error
        return self._table


def saved_files(path: str, state: str | os.PathLike[str]) -> list[str]:
    """Names of the Arrow files of a saved data set, as its ``state.json`` lists them.

    Raises :class:`TrainingDataError` for names that lead out of its folder, and for rows that were chosen by an index.
    """
    found = read_json(state, TrainingDataError)
    files = found.get("_data_files")
    names = [file.get("filename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    if not names or any(not isinstance(name, str) or name != os.path.basename(name) for name in names):
        raise TrainingDataError(f"{path}: state.json lists no Arrow files of this folder; save the data set again")
    if found.get("_indices_data_files") or found.get("_indices_files"):
        raise TrainingDataError(f"{path} has rows chosen by an index: save it after flatten_indices()")
    return [str(name) for name in names]


def _plain(value: object, name: str, held: dict[str, bytes]) -> object:
    """A value in which bytes are named instead, and ``{"bytes", "path"}`` of Hugging Face; ``held`` gets the bytes."""
    if isinstance(value, bytes):
        held[name] = value
        return name
    if isinstance(value, dict):
        if "bytes" in value and set(value) <= {"bytes", "path"}:
            if isinstance(value["bytes"], bytes):
                held[name] = value["bytes"]
                return name
            return value.get("path")
        return {key: _plain(one, f"{name}.{key}", held) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, f"{name}[{at}]", held) for at, one in enumerate(value)]
    return value


def _turns(value: object) -> object:
    """Turns that are columns of their own, ``{"from": [...], "value": [...]}``, or JSON, as a list."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            found = json.loads(value)
            return found if isinstance(found, list) else value
    if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
        counts = {len(one) for one in value.values()}
        if len(counts) == 1:
            return [dict(zip(value, row)) for row in zip(*value.values())]
    return value


def _pyarrow(path: str | os.PathLike[str]) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(f"{path} is a table: pip install 'videoxl[parquet]'") from None
    return pyarrow


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
