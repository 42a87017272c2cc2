"""Records as members of a tar (webdataset's shards): ``000017.json`` beside ``000017.mp4`` is one record.

A tar is indexed once, by its headers. A member is then read from where it lies; nothing is unpacked by its name, so
that no name, link or device leads anywhere.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from videoxl.errors import TrainingDataError
from videoxl.json_lines import parse_object
from videoxl.storage import protocol_of
from videoxl.training.data.media import ENDINGS, FIELDS, KINDS, media_of
from videoxl.training.data.records import MAX_RECORD_BYTES, Opener, Records

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
BLOCK = 512
CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    name: str
    offset: int
    """Its first byte in the tar."""
    size: int
    wrong: str | None = None
    """Why it is not read."""

    @property
    def ending(self) -> str:
        """Everything behind the key and its dot."""
        return key_of(self.name)[1]


def key_of(name: str) -> tuple[str, str]:
    """Key and ending of a member, cut at the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return folder + slash + stem, ending


class TarRecords(Records):
    """The records of one tar, in the order of their first members."""

    def __init__(self, path: str, opened: Opener, folder: str) -> None:
        """Raises :class:`TrainingDataError` for a tar that is damaged, cut off, or compressed."""
        self.path, self.opened, self.folder = path, opened, folder
        self.remote = protocol_of(path) is not None
        samples: dict[str, list[Member]] = {}
        try:
            with opened() as local:
                for member in _members(path, local):
                    samples.setdefault(key_of(member.name)[0], []).append(member)
        except (OSError, ValueError, OverflowError, tarfile.TarError) as error:
            raise TrainingDataError(f"{path} cannot be read as a tar ({error}); check the path") from error
        self.samples = [(key, tuple(members)) for key, members in samples.items()]

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, number: int) -> str:
        return f"{self.file_name}/{self.samples[number][0]}"

    @property
    def blocks(self) -> np.ndarray | None:
        return np.zeros(len(self), np.int64) if self.remote else None

    def read(self, number: int) -> Mapping[str, object]:
        """The record of a ``.json`` member. Where it names no files, the members are what it shows, in their order."""
        _, members = self.samples[number]
        endings = [member.ending for member in members]
        if twice := next((ending for ending in endings if endings.count(ending) > 1), None):
            raise TrainingDataError(f"{self.name(number)}.{twice} stands in the tar {endings.count(twice)} times")
        if wrong := next((member for member in members if member.wrong), None):
            raise TrainingDataError(f"{self.file_name}: {wrong.name!r:.120} {wrong.wrong}")
        own = next((member for member in members if member.ending == "json"), None)
        if own is None:
            raise TrainingDataError(
                f"{self.name(number)} has no .json with its conversations; it has {', '.join(endings):.100}"
            )
        if own.size > MAX_RECORD_BYTES:
            raise TrainingDataError(f"{self.name(number)}.json has {own.size:,} bytes, most are {MAX_RECORD_BYTES:,}")
        try:
            record = parse_object(b"".join(self._content(own)))
        except ValueError as error:
            raise TrainingDataError(f"{self.name(number)}.json is {error}") from error
        return _with_members(record, [member for member in members if member is not own])

    def held(self, number: int) -> Sequence[str]:
        """Every member under its whole name, the name of its file, and its ending."""
        members = [member for member in self.samples[number][1] if not member.wrong]
        return tuple(name for member in members for name in _names(member))

    def copy_held(self, number: int, name: str, target: IO[bytes]) -> None:
        member = next(member for member in self.samples[number][1] if name in _names(member))
        for data in self._content(member):
            target.write(data)

    def _content(self, member: Member) -> Iterator[bytes]:
        try:
            with self.opened() as local, open(local, "rb") as file:
                for at in range(0, member.size, CHUNK):
                    wanted = min(CHUNK, member.size - at)
                    data = os.pread(file.fileno(), wanted, member.offset + at)
                    if len(data) < wanted:
                        raise TrainingDataError(f"{self.file_name} has become shorter since training began")
                    yield data
        except OSError as error:
            raise TrainingDataError(f"{self.path} cannot be read ({error.strerror or error})") from error


def _names(member: Member) -> tuple[str, str, str]:
    return member.name, member.name.rpartition("/")[2], member.ending


def _with_members(record: dict[str, object], members: Sequence[Member]) -> dict[str, object]:
    """A record with the members it is stored with, where it does not name files itself."""
    shown = {kind: [m.name for m in members if m.name.lower().endswith(ENDINGS[kind])] for kind in ENDINGS}
    named = any(record.get(field) for fields in FIELDS.values() for field in fields) or record.get("media")
    if not named and any(shown.values()) and not media_of(record)[1]:
        return {**record, **{kind: names for kind in KINDS if (names := shown.get(kind))}}
    others = [m.name for m in members if not m.name.lower().endswith((*ENDINGS["video"], *ENDINGS["image"]))]
    return {**record, "members": others} if others else record


def _members(path: str, local: str) -> Iterator[Member]:
    """The files of a tar, and what they say of themselves that cannot be read."""
    if path.lower().endswith(COMPRESSED):
        raise TrainingDataError(f"{path} is compressed, and records are read from anywhere in it: unpack it to .tar")
    with tarfile.open(local, "r:") as tar:
        while (found := tar.next()) is not None:
            if found.isdir():
                continue
            wrong = None
            if not found.isreg() or found.issparse():
                wrong = "is a link, a device or has holes: only plain files are read"
            yield Member(found.name, found.offset_data, found.size, wrong)
        end = tar.offset
    _check_end(path, local, end)


def _check_end(path: str, local: str, end: int) -> None:
    """Raise unless zeros end the tar: ``tarfile`` takes damage, and a cut behind a member, for the end."""
    with open(local, "rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise TrainingDataError(
                f"{path} is damaged or cut off at byte {end:,}: what stands behind it cannot be read; copy it again"
            )
        while data := file.read(CHUNK):
            if data.strip(b"\0"):
                raise TrainingDataError(f"{path} has more behind its end, such as another tar: give each by itself")
