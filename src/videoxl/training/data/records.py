"""What every kind of file of records can do: give a record by its number, and the pictures that lie within it."""

from __future__ import annotations

import bisect
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from videoxl.errors import TrainingDataError

MAX_RECORD_BYTES = 64 * 2**20
"""A longer record is taken for damage: 64 MiB of JSON are no conversation."""
Opener = Callable[[], AbstractContextManager[str]]
"""Gives the local path of a file, which stays there during the block."""


@dataclass(frozen=True)
class InPlace:
    """Opens a file of this machine: there is nothing to do."""

    path: str

    def __call__(self) -> AbstractContextManager[str]:
        return nullcontext(self.path)


@dataclass(frozen=True)
class Media:
    """A picture or video of a record."""

    key: str
    """Its path, its URL, or its name behind that of the record that holds it."""
    local: Opener = field(compare=False)


def local_media(path: str) -> Media:
    """A file of this machine."""
    return Media(path, InPlace(path))


class Records(ABC):
    """The records of a file, or of several, by number. Holds where they are, not what they say."""

    path: str
    """The file, as it was named."""
    folder: str
    """Names of pictures and videos are relative to it, unless another folder is given."""

    @property
    def file_name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The same without its ending: what the log calls it."""
        return PurePosixPath(self.path).stem

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, number: int) -> str:
        """The name of a record in messages."""

    @abstractmethod
    def read(self, number: int) -> Mapping[str, object]:
        """One record. Raises :class:`TrainingDataError` naming the file, the place and what is wrong."""

    def held(self, number: int) -> Sequence[str]:
        """Names of the pictures and videos that lie within a record. Raises :class:`TrainingDataError`."""
        return ()

    def copy_held(self, number: int, name: str, target: IO[bytes]) -> None:
        """Write one of them to a file. Raises :class:`TrainingDataError`."""
        raise TrainingDataError(f"{self.name(number)} holds no {name}")

    @property
    def blocks(self) -> np.ndarray | None:
        """The part of the file that every record lies in, int64, where it is best read part by part; None: anywhere."""
        return None

    def media(self, number: int, name: str) -> Media | None:
        """What lies within a record under a name; None where nothing does."""
        if name not in self.held(number):
            return None
        return Media(f"{self.name(number)}/{name}", partial(self._local_held, number, name))

    @contextmanager
    def _local_held(self, number: int, name: str) -> Iterator[str]:
        """A copy for the block, under a name that is ours: none of a file leads anywhere."""
        with tempfile.TemporaryDirectory(prefix="videoxl-held-") as folder:
            path = Path(folder) / plain_name(name)
            with open(path, "wb") as file:
                self.copy_held(number, name, file)
            yield str(path)


class Shards(Records):
    """Several files of records, one behind the other."""

    def __init__(self, path: str, parts: Sequence[Records]) -> None:
        self.path, self.parts = path, parts
        self.folder = parts[0].folder
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, number: int) -> tuple[Records, int]:
        at = bisect.bisect_right(self._ends, number)
        return self.parts[at], number - (self._ends[at - 1] if at else 0)

    def name(self, number: int) -> str:
        part, inner = self._find(number)
        return part.name(inner)

    def read(self, number: int) -> Mapping[str, object]:
        part, inner = self._find(number)
        return part.read(inner)

    def held(self, number: int) -> Sequence[str]:
        part, inner = self._find(number)
        return part.held(inner)

    def copy_held(self, number: int, name: str, target: IO[bytes]) -> None:
        part, inner = self._find(number)
        part.copy_held(inner, name, target)

    @property
    def blocks(self) -> np.ndarray | None:
        own = [part.blocks for part in self.parts]
        if all(blocks is None for blocks in own):
            return None
        found, first = [], 0
        for part, blocks in zip(self.parts, own):
            blocks = np.zeros(len(part), np.int64) if blocks is None else blocks
            found.append(blocks + first)
            first += int(blocks.max(initial=-1)) + 1
        return np.concatenate(found)


def plain_name(name: str) -> str:
    """A name for a copy: the last part of another one, as far as it is plain."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name.rpartition("/")[2])[-80:].lstrip(".") or "media"
