"""Cut a reading into segments that are decoded independently, and choose how many processes share them.

A segment begins at a key frame. Where it begins depends on the file and on the frames asked for, never on the number
of processes: a frame is decoded from the same packets however many there are, so it has the same bytes, also in a
damaged file.

Work is counted in pictures of 1080p, of which one core decodes 200 to 300 a second (H.264).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from videoxl.video.frames import Numbers
from videoxl.video.host import free_host_bytes, usable_cores
from videoxl.video.source import BATCH_BYTES

DecoderProcesses = int | Literal["auto"]
"""At most so many decoder processes for one file; ``auto``: one for each core."""
PICTURE_PIXELS = 1920 * 1080
SEGMENTS = 32
"""A reading is cut into about so many segments, if they are not too small or too large for that."""
LEAST_SEGMENT, MOST_SEGMENT = 100.0, 400.0
"""Work of a segment. Beginning one, with a new decoder, costs as much as four to eight pictures."""
PROCESS_WORK = 100.0
"""Each process must have at least so much work: starting it costs as much as twenty to forty pictures."""
FINISHING = 5
"""Converting and resizing a picture costs about as much as decoding so many."""
SMALLEST_SHARE = 0.05
"""However small a picture is, it costs this share of a large one."""
MEMORY_SHARE = 0.25
"""Decoder processes may take this share of the free memory."""
HELD_PICTURES = 24
"""A decoder keeps about so many pictures: references, those in reordering, those being resized."""
HELD_BATCHES = 3
"""A process is at most so many batches ahead: one being filled, one queued, one on its way."""


@dataclass(frozen=True)
class Segment:
    """Frames that are decoded together."""

    numbers: list[int]
    """Frame numbers, never descending."""
    work: float
    """Pictures of 1080p."""


def cut(numbers_F: Numbers, starts_K: Numbers, pixels: int) -> list[Segment]:
    """Cut frame numbers (never descending) at key frames into segments of similar work.

    ``starts_K``: ascending; the frames at which decoding can begin, the first of them 0. ``pixels``: of a picture.
    """
    share = max(pixels / PICTURE_PIXELS, SMALLEST_SHARE)
    span_F = np.searchsorted(starts_K, numbers_F, side="right") - 1
    first_S = np.flatnonzero(np.diff(span_F, prepend=-1))  # of the numbers that need the same key frame
    last_S = np.append(first_S[1:], len(numbers_F)) - 1
    decoded_S = numbers_F[last_S] - starts_K[span_F[first_S]] + 1
    work_S = share * (decoded_S + FINISHING * (last_S - first_S + 1))
    each = min(max(float(work_S.sum()) / SEGMENTS, LEAST_SEGMENT), MOST_SEGMENT)
    segment_S = ((np.cumsum(work_S) - work_S) // each).astype(np.int64)
    borders = [*first_S[np.flatnonzero(np.diff(segment_S, prepend=-1))].tolist(), len(numbers_F)]
    works = np.bincount(segment_S, weights=work_S)
    numbers = numbers_F.tolist()
    return [
        Segment(numbers[begin:end], float(work))
        for begin, end, work in zip(borders, borders[1:], works[works > 0].tolist())
    ]


def choose_processes(
    segments: list[Segment], allowed: DecoderProcesses, *, pixels: int, batch_frames: int, resized_pixels: int
) -> int:
    """How many processes share the segments. More than the cores, the work or the memory are worth never help."""
    most = useful_processes(segments)
    if most == 1:
        return 1
    held = HELD_PICTURES * 3 * pixels + HELD_BATCHES * min(BATCH_BYTES, 3 * batch_frames * resized_pixels)
    most = min(most, int(MEMORY_SHARE * free_host_bytes() // held))
    return max(1, min(most, usable_cores() if allowed == "auto" else allowed))


def useful_processes(segments: list[Segment]) -> int:
    """How many processes the work is worth, however many cores there are."""
    return max(1, min(len(segments), int(sum(segment.work for segment in segments) // PROCESS_WORK)))


def check_processes(value: object, name: str) -> DecoderProcesses:
    """``auto``, or a number as a number. Raise ``ValueError`` unless it is a whole one of at least 1."""
    if value == "auto":
        return "auto"
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} must be auto or a whole number of at least 1, got {value!r}")
    return number
