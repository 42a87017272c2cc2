"""Opens what an entry of a mixture names: a file of records, a folder, or several by a pattern."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from platformdirs import user_cache_path

from videoxl.errors import TrainingDataError
from videoxl.storage import protocol_of
from videoxl.training.config.data import DataConfig
from videoxl.training.data.mixtures import RecordFile, Source
from videoxl.training.data.records import Opener, Records, Shards
from videoxl.training.data.storage import Storage
from videoxl.training.data.tables import ArrowRecords, ParquetRecords, saved_files
from videoxl.training.data.tar_records import COMPRESSED, TarRecords

MOST_FILES = 100_000
"""Names that braces may stand for."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
KINDS: dict[str, Callable[[str, Opener, str], Records]] = {
    ".parquet": ParquetRecords,
    ".tar": TarRecords,
    ".arrow": ArrowRecords,
    ".json": RecordFile,
    ".jsonl": RecordFile,
}


def storage_of(config: DataConfig) -> Storage:
    """Where the files of a configuration lie."""
    folder = config.media_cache or user_cache_path("videoxl") / "media"
    return Storage(folder, config.media_cache_gb, allow_url=config.allow_url)


def open_sources(sources: Iterable[Source], config: DataConfig) -> list[Records]:
    """The files of records of every source. Raises :class:`TrainingDataError` for one that cannot be used."""
    storage, found = storage_of(config), []
    for source in sources:
        for folder in (source.media_folder, config.media_folder):
            storage.check(folder or "")
        records = open_records(source.path, storage)
        if not len(records):
            raise TrainingDataError(f"{source.path} holds no records: leave it out, or check the path")
        found.append(records)
    return found


def open_records(path: str, storage: Storage) -> Records:
    """The records of a file (``.json``, ``.jsonl``, ``.parquet``, ``.tar``), of a folder with such files or that
    ``datasets.save_to_disk`` wrote, or of all that a pattern with ``*`` or ``{000..127}`` names.

    Raises :class:`TrainingDataError`.
    """
    storage.check(path)
    names = list(islice(expanded(path), MOST_FILES + 1))
    if len(names) > MOST_FILES:
        raise TrainingDataError(f"{path:.200}: its braces stand for more than {MOST_FILES:,} names")
    parts = [file for name in names for file in _files(name, storage)]
    if not parts:
        raise TrainingDataError(f"{path}: nothing matches it; check the path")
    if len(set(parts)) < len(parts):
        twice = next(file for at, file in enumerate(parts) if file in parts[:at])
        raise TrainingDataError(f"{path} names {twice} twice: name it once, and take it often by its sampling_strategy")
    kinds = {_kind_of(file) for file in parts}
    if len(kinds) > 1:
        raise TrainingDataError(f"{path} names several kinds of files ({', '.join(sorted(kinds))}): give each alone")
    whole = len(parts) == 1 and parts[0] == path  # a file; else a folder, or what stands before a pattern
    folder = parent_of(path if whole else re.split(r"[{*?[]", path)[0] + ("/x" if _is_folder(path, storage) else "x"))
    opened = [KINDS.get(_kind_of(file), RecordFile)(file, storage.opener(file), folder) for file in parts]
    return opened[0] if len(opened) == 1 else Shards(path, opened)


def expanded(path: str) -> Iterator[str]:
    """Names with braces written out: ``{000..003}`` and ``{a,b}``. A file of exactly that name is itself."""
    found = _BRACES.search(path)
    if found is None or os.path.lexists(path):
        yield path
        return
    for inner in _alternatives(path, found[1]):
        yield from expanded(path[: found.start()] + inner + path[found.end() :])


def _alternatives(path: str, inner: str) -> Iterable[str]:
    numbers = _RANGE.fullmatch(inner)
    if numbers is None:
        return inner.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if last < first:
        raise TrainingDataError(f"{path:.200}: {{{inner}}} must go up")
    if last - first >= MOST_FILES:
        raise TrainingDataError(f"{path:.200}: its braces stand for more than {MOST_FILES:,} names")
    width = len(numbers[1]) if numbers[1].startswith("0") else 0
    return (f"{number:0{width}d}" for number in range(first, last + 1))


def _files(pattern: str, storage: Storage) -> list[str]:
    """Files of a name or a pattern; a folder stands for those in it."""
    found = storage.matches(pattern)
    return [file for one in found for file in (_in_folder(one, storage) if _is_folder(one, storage) else [one])]


def _is_folder(path: str, storage: Storage) -> bool:
    """Whether a path is a folder. Storage is not asked about names of files."""
    return not (protocol_of(path) and _kind_of(path) in KINDS) and storage.is_folder(path)


def _in_folder(folder: str, storage: Storage) -> list[str]:
    base = folder.rstrip("/")
    if storage.exists(f"{base}/state.json"):
        with storage.opener(f"{base}/state.json")() as state:
            return [f"{base}/{name}" for name in saved_files(folder, state)]
    if storage.exists(f"{base}/dataset_dict.json"):
        raise TrainingDataError(f"{folder} holds several splits: name one of them, such as {base}/train")
    for ending in (".parquet", ".tar", ".jsonl"):
        if found := storage.matches(f"{_literal(base)}/**/*{ending}"):
            return found
    raise TrainingDataError(f"{folder} holds no .parquet, .tar or .jsonl files, and no saved data set; check the path")


def _literal(path: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", path)


def _kind_of(path: str) -> str:
    """The ending that says how a file is read. Raises :class:`TrainingDataError` for compressed ones."""
    lower = path.lower()
    if lower.endswith((*COMPRESSED, ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst")):
        raise TrainingDataError(f"{path} is compressed, and records are read from anywhere in it: unpack it first")
    return posixpath.splitext(lower)[1]


def parent_of(path: str) -> str:
    """The folder of a file, of this machine or not."""
    return posixpath.dirname(path) if protocol_of(path) else os.path.dirname(path)
