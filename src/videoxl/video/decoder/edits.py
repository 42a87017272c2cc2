"""Inside the decoder process: the edit lists of an MP4 or MOV file, as far as FFmpeg does not read them rightly.

FFmpeg takes pauses between two edits, held pictures and changed speeds for ordinary edits, and does not show the last
picture for longer than its sample says. ISO/IEC 14496-12, 8.6.6.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MOST_BOXES = 1000
MOST_EDITS = 1000
NORMAL_SPEED = 1 << 16
EMPTY = -1
"""The media time of an edit that shows nothing."""


@dataclass(frozen=True)
class EditList:
    """The edits of one track."""

    end: float
    """Seconds, on the clock of the file, at which the last edit ends; 0 if unknown or later than the movie's end."""
    is_plain: bool
    """Whether all edits play at normal speed, with no pause except before the first."""


@dataclass(frozen=True)
class _Box:
    kind: bytes
    begin: int
    """Of its content."""
    end: int


def read_edits(fd: int) -> dict[int, EditList]:
    """Track number -> its edits. Empty for other files and for damaged ones."""
    try:
        movie = _child(fd, _Box(b"", 0, os.lseek(fd, 0, os.SEEK_END)), b"moov")
        clock = _movie_clock(fd, movie)
        tracks = [box for box in _children(fd, movie) if box.kind == b"trak"]
        return dict(_edits_of(fd, track, *clock) for track in tracks)
    except (LookupError, struct.error):
        return {}


def _children(fd: int, parent: _Box) -> Iterator[_Box]:
    at = parent.begin
    for _ in range(MOST_BOXES):
        header = os.pread(fd, 16, at) if at + 8 <= parent.end else b""
        if len(header) < 8:
            return
        size, kind = struct.unpack_from(">I4s", header)
        begin = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", header, 8)
            begin = at + 16
        end = parent.end if size == 0 else at + size
        if end <= at:
            return
        yield _Box(kind, begin, min(end, parent.end))
        at = end


def _child(fd: int, parent: _Box, *path: bytes) -> _Box:
    for kind in path:
        parent = next((box for box in _children(fd, parent) if box.kind == kind), _Box(b"", 0, 0))
        if not parent.kind:
            raise LookupError(kind)
    return parent


def _movie_clock(fd: int, movie: _Box) -> tuple[int, int]:
    """(units a second in which edits give their durations, duration of the movie in these units)."""
    header = os.pread(fd, 32, _child(fd, movie, b"mvhd").begin)
    scale, duration = (
        struct.unpack_from(">IQ", header, 20) if header[:1] == b"\1" else struct.unpack_from(">II", header, 12)
    )
    if not scale:
        raise LookupError("time scale")
    return int(scale), int(duration)


def _edits_of(fd: int, track: _Box, scale: int, movie: int) -> tuple[int, EditList]:
    header = os.pread(fd, 24, _child(fd, track, b"tkhd").begin)
    (number,) = struct.unpack_from(">I", header, 20 if header[:1] == b"\1" else 12)
    try:
        box = _child(fd, track, b"edts", b"elst")
    except LookupError:
        return number, EditList(0.0, is_plain=True)
    is_long = os.pread(fd, 1, box.begin) == b"\1"
    (count,) = struct.unpack(">I", os.pread(fd, 4, box.begin + 4))
    entry = struct.Struct(">Qqi" if is_long else ">Iii")
    data = os.pread(fd, entry.size * min(count, MOST_EDITS), box.begin + 8)
    edits = [entry.unpack_from(data, at) for at in range(0, len(data) - entry.size + 1, entry.size)]
    shown = [number for number, (_, time, _) in enumerate(edits) if time != EMPTY]
    paused = any(time == EMPTY for _, time, _ in edits[shown[0] : shown[-1]]) if shown else False
    at_speed = all(speed == NORMAL_SPEED for _, time, speed in edits if time != EMPTY)
    unknown = count > MOST_EDITS or any(duration == 0 for duration, _, _ in edits)
    units = sum(duration for duration, _, _ in edits)
    end = 0.0 if unknown or units > movie else units / scale
    return number, EditList(end, is_plain=at_speed and not paused)
