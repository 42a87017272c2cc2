"""Memories that several servers share, in a folder or a storage: what one has read, no other reads again.

``KEY.vxl`` is a memory file: content, settings and model make its name. ``mem-ID.json`` says which key a memory of an
owner has, so that a question about it may be asked at any server. Both appear whole or not at all. Two servers that
read the same at once write the same file twice; the last one stays.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videoxl.errors import MemoryFileError, VideoXLError
from videoxl.json_lines import encode_json
from videoxl.settings import from_json
from videoxl.storage import StoragePath, local_path, protocol_of
from videoxl.text import visible

logger = logging.getLogger(__name__)
Between = Callable[[int, int], None]
"""Called with the bytes that are done and all bytes, every few MB."""


class SharedError(VideoXLError):
    """What servers share cannot be reached."""

    exit_code = 2
    code = "shared"


@dataclass(frozen=True)
class SharedMemory:
    """A memory of an owner, whose id it has in its name."""

    key: str
    sha256: str
    """Of the video."""
    settings: dict[str, Any]
    facts: dict[str, Any]


class SharedMemories:
    """The folder or storage. What is wrong with it costs time, never an answer: the video is read then."""

    def __init__(self, place: str, verify: Callable[[Path], object] | None = None) -> None:
        """``place``: a folder, or ``s3://...``. ``verify``: raises ``MemoryFileError`` for a damaged file."""
        stored = protocol_of(place) is not None
        self._folder = StoragePath(place if stored else f"file://{os.path.abspath(local_path(place))}", SharedError)
        self._verify = verify or _verify

    def check(self) -> None:
        """Raise :class:`SharedError` where nothing can be written."""
        self._folder.check_writable()

    def fetch(self, key: str, target: Path, between: Between, problems: list[str]) -> bool:
        """Copy the file of a key to ``target``. Returns False where there is none that is whole."""
        temporary = target.with_name(f"{target.name}.shared")
        shared = self._folder / f"{key}.vxl"
        try:
            if not shared.exists():
                return False
            shared.download(temporary, between)
            self._verify(temporary)
            os.replace(temporary, target)
            return True
        except (SharedError, MemoryFileError, OSError) as error:
            _note(problems, f"the shared memory was not used, and the video was read: {error}")
            return False
        finally:
            temporary.unlink(missing_ok=True)

    def publish(self, key: str, source: Path, between: Between, problems: list[str]) -> None:
        """Share a file. One that is there and was not used is replaced."""
        try:
            (self._folder / f"{key}.vxl").upload(source, between)
        except SharedError as error:
            _note(problems, f"the memory is not shared with other servers: {error}")

    def describe(self, memory_id: str, memory: SharedMemory) -> None:
        """Say which key the memory of an owner has. A failure is logged: only this server knows the id then."""
        try:
            (self._folder / f"{memory_id}.json").write(encode_json(asdict(memory)))
        except SharedError as error:
            logger.warning("%s is known to this server only: %s", memory_id, error)

    def find(self, memory_id: str) -> SharedMemory | None:
        """What another server said of a memory."""
        if not memory_id.replace("-", "").isalnum():
            return None
        path = self._folder / f"{memory_id}.json"
        try:
            return from_json(SharedMemory, path.read_bytes()) if path.exists() else None
        except (SharedError, ValueError) as error:
            logger.warning("%s cannot be looked up: %s", memory_id, visible(str(error), lines=False))
            return None

    def forget(self, memory_id: str) -> None:
        """Take back what was said of a memory. Its file stays: other owners may have the same."""
        try:
            (self._folder / f"{memory_id}.json").remove()
        except SharedError as error:
            logger.warning("%s stays known to other servers: %s", memory_id, error)


def _verify(path: Path) -> None:
    from videoxl.memory.file.format import MemoryFile  # it needs torch, which the front does not have

    MemoryFile(path).verify()


def _note(problems: list[str], text: str) -> None:
    logger.warning("%s", visible(text, lines=False))
    problems.append(text)
