"""The frames of the segment in work, on disk: what a process that is killed leaves for the next one.

Each frame is a small JPEG. What was being written when the process died is cut off and does not count.
"""

from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from videoxl.errors import LiveError
from videoxl.memory.file.atomic import FULL
from videoxl.video.frames import Pixels
from videoxl.video.live.source import LiveFrame

MAGIC = b"vxlj"
HEAD = struct.Struct("<4sdI")
"""Magic number, seconds, bytes of the JPEG."""
LONGEST_SIDE = 640
QUALITY = 92
MOST_FRAME = 1 << 24


@dataclass(frozen=True)
class KeptFrame:
    """A frame as the journal keeps it."""

    seconds: float
    jpeg: bytes

    def frame(self) -> LiveFrame:
        """The picture, decoded. It was encoded by this package."""
        with Image.open(io.BytesIO(self.jpeg), formats=["JPEG"]) as picture:
            return LiveFrame(np.asarray(picture.convert("RGB"), np.uint8), self.seconds)


def small_jpeg(pixels_HWC: Pixels, side: int = LONGEST_SIDE, quality: int = QUALITY) -> bytes:
    """A picture as a JPEG of at most so many pixels a side."""
    picture = Image.fromarray(pixels_HWC)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


class Journal:
    """A file of frames that is appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, frames: list[LiveFrame]) -> None:
        """Keep frames: they are on the disk when this returns. Raises :class:`LiveError` where there is no room."""
        parts = []
        for frame in frames:
            jpeg = small_jpeg(frame.pixels_HWC)
            parts.append(HEAD.pack(MAGIC, frame.seconds, len(jpeg)) + jpeg)
        try:
            with open(self.path, "ab", buffering=0) as file:
                begin = file.seek(0, os.SEEK_END)
                try:
                    _write_all(file, b"".join(parts))
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), begin)
                    raise
        except OSError as error:
            full = error.errno in FULL
            hint = "make room" if full else f"check that {self.path.parent} may be written to"
            raise LiveError(
                f"{self.path} was not written ({error.strerror}): {hint}", code="disk_full" if full else "live"
            ) from None

    def frames(self) -> Iterator[KeptFrame]:
        """Yield the frames that are whole."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            while len(head := file.read(HEAD.size)) == HEAD.size:
                magic, seconds, size = HEAD.unpack(head)
                if magic != MAGIC or size > MOST_FRAME:
                    return
                jpeg = file.read(size)
                if len(jpeg) < size:
                    return
                yield KeptFrame(seconds, jpeg)

    def clear(self) -> None:
        """Forget all frames."""
        self.path.unlink(missing_ok=True)


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = file.write(view)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]
