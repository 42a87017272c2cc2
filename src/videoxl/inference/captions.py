"""Subtitles on the time axis of a video: each cue stands behind the timestamp of the group of frames it begins in.

So it is part of that timestamp for all that follows: in chunked prefill it sees everything before it and is seen by
everything after it, bi-level decoding keeps it in full in blocks that are averaged, a memory cut to a part of the video
keeps the cues of that part. No mode has a rule of its own for it.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from videoxl.video.subtitles import Cue, read_subtitles


def cues_of(subtitles: Any) -> tuple[Cue, ...]:
    """From a subtitle file, or cues. Raises ``ValueError`` for anything else, ``VideoError`` for a bad file."""
    if isinstance(subtitles, (str, os.PathLike)):
        return read_subtitles(subtitles)
    if isinstance(subtitles, Sequence) and all(isinstance(cue, Cue) for cue in subtitles):
        return tuple(sorted(subtitles, key=_begin))
    raise ValueError(f"subtitles must be a .srt or .vtt file or a list of Cue, got {type(subtitles).__name__}")


def _begin(cue: Cue) -> float:
    """Of several that begin together the first given stays first."""
    return cue.start_s


def caption_text(texts: Sequence[str]) -> str:
    """What is read behind a timestamp: every cue in quotes, ``Time 12.0s: "Hello." "Who is there?"``."""
    return "".join(f' "{text}"' for text in texts)


@dataclass(frozen=True)
class Captions:
    """Cues, each with the frame on screen when it begins."""

    anchors: tuple[float, ...]
    """Times of those frames, ascending."""
    texts: tuple[str, ...]
    left_out: int
    """Cues that are on screen at no time of the part that is read."""

    @classmethod
    def place(cls, cues: Sequence[Cue], timestamps: Sequence[float], end_s: float) -> Captions:
        """``timestamps``: of all frames that will be read, ascending; ``end_s``: where the last of them ends.

        A cue that began before the first frame and is still on screen stands with the first frame.
        """
        anchors, texts = [], []
        for cue in sorted(cues, key=_begin):
            seen_before = cue.start_s < timestamps[0]
            if cue.start_s >= end_s or (seen_before and cue.end_s <= timestamps[0]):
                continue
            anchors.append(timestamps[max(0, bisect_right(timestamps, cue.start_s) - 1)])
            texts.append(cue.text)
        return cls(tuple(anchors), tuple(texts), len(cues) - len(texts))

    def of_groups(self, timestamps: Sequence[float], frames_per_group: int, before: float | None = None) -> list[str]:
        """What stands behind the timestamp of each group of these frames.

        ``before``: the time of the frame before the first of them; None: they are the first. Should a frame have been
        lost in decoding, its cues stand with the next one.
        """
        ends = range(frames_per_group, len(timestamps) + frames_per_group, frames_per_group)
        edges = [0 if before is None else bisect_right(self.anchors, before)]
        edges += [bisect_right(self.anchors, timestamps[min(end, len(timestamps)) - 1]) for end in ends]
        return [caption_text(self.texts[a:b]) for a, b in pairwise(edges)]
