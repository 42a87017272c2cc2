"""A stretch of a video as a file of its own: what its decoder process sends is written to a descriptor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import get_args

from videoxl.errors import VideoError
from videoxl.video.decoder.messages import ClipFormat, ClipHow, ClipReport
from videoxl.video.decoder.source import FileSource
from videoxl.video.source import VideoSource

HOW = get_args(ClipHow)
ALLOWANCE = 2**30
"""A clip may have twice the bytes of its video, and so many more; a process that sends more was taken over."""


@dataclass(frozen=True)
class ClipFacts:
    """What became of a clip. Times are seconds of the video it was taken from."""

    start: float
    end: float
    frames: int
    copied: bool
    notes: tuple[str, ...]


def clip_to(
    source: VideoSource, start: float, end: float, descriptor: int, form: ClipFormat, how: ClipHow = "auto"
) -> ClipFacts:
    """Write what is on screen from ``start`` to ``end`` seconds to a file that is open for writing.

    Raises ``VideoError`` for a source that is no video file, for a stretch without pictures, and for one that cannot be
    written as it was asked for.
    """
    if not isinstance(source, FileSource):
        raise VideoError(f"{source.name}: clips are made of video files alone, not of pictures", code="bad_frames")
    most = 2 * source.size + ALLOWANCE
    for part in source.clip(start, end, form, how):
        if isinstance(part, ClipReport):
            os.ftruncate(descriptor, min(part.size, most))
            return ClipFacts(part.start, part.end, part.frames, part.copied, tuple(part.notes))
        offset, data = part
        if offset + len(data) > most:
            raise source.garbage(ValueError(f"a clip of more than {most} bytes"))
        rest = memoryview(data)
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
    raise source.garbage(ValueError("no report of a clip"))
