"""Subtitles on the time axis of a video: each cue stands behind the timestamp of the group of frames it begins in.

So it is part of that timestamp for all that follows: in chunked prefill it sees everything before it and is seen by
everything after it, bi-level decoding keeps it in full in blocks that are averaged, a memory cut to a part of the video
keeps the cues of that part. No mode has a rule of its own for it.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

from videoxl.inference.prompt import Tokenize, time_text
from videoxl.memory.layout import Group
from videoxl.video.subtitles import Cue, read_subtitles

Ids = tuple[int, ...]


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


def caption_text(text: str) -> str:
    """What is read of a cue, behind a timestamp or another cue: ``Time 12.0s: "Hello." "Who is there?"``."""
    return f' "{text}"'


def check_place(family: str, time_format: str, *, still: bool = False) -> None:
    """Raise ``ValueError`` where subtitles have no place."""
    if not time_format:
        raise ValueError(f"{family} has no timestamps to put subtitles behind: put them in the question")
    if still:
        raise ValueError("a still picture has no subtitles")


def later_cues(cues: Iterable[Cue], known_end_s: float, next_s: float) -> list[Cue]:
    """Of a video read up to ``known_end_s`` those that begin later; none before the next frame, at ``next_s``."""
    late = (cue for cue in cues if cue.start_s >= known_end_s)
    return [replace(cue, start_s=max(cue.start_s, next_s), end_s=max(cue.end_s, next_s)) for cue in late]


@dataclass(frozen=True)
class Captions:
    """Ids of what is said, each with the frame on screen when it begins."""

    anchors: tuple[float, ...]
    """Times of those frames, ascending."""
    said: tuple[Ids, ...]
    left_out: int = 0
    """Cues that are on screen at no time of the part that is read."""
    cues: int = 0
    """How many are in :attr:`said`."""

    @classmethod
    def place(cls, cues: Sequence[Cue], timestamps: Sequence[float], end_s: float, tokenize: Tokenize) -> Captions:
        """``timestamps``: of all frames that will be read, ascending; ``end_s``: where the last of them ends;
        ``tokenize``: as a user's words, in which control tokens are just text.

        A cue that began before the first frame and is still on screen stands with the first frame.
        """
        anchors, said = [], []
        for cue in sorted(cues, key=_begin):
            seen_before = cue.start_s < timestamps[0]
            if cue.start_s >= end_s or (seen_before and cue.end_s <= timestamps[0]):
                continue
            anchors.append(timestamps[max(0, bisect_right(timestamps, cue.start_s) - 1)])
            said.append(tuple(tokenize(caption_text(cue.text))))
        return cls(tuple(anchors), tuple(said), left_out=len(cues) - len(said), cues=len(said))

    @classmethod
    def read_before(
        cls, ids: Sequence[int], groups: Iterable[Group], tokenize: Tokenize, time_format: str, cues: int
    ) -> Captions:
        """The ``cues`` in a visual span that was read: what stands between the timestamps and frames of its groups."""
        anchors, said = [], []
        for group in groups:
            begin = group.token_start + len(tokenize(time_text(group.start_s, time_format)))
            if begin < group.visual_start:
                anchors.append(group.start_s)
                said.append(tuple(ids[begin : group.visual_start]))
        return cls(tuple(anchors), tuple(said), cues=cues)

    def after(self, earlier: Captions) -> Captions:
        """Both, where all of ``earlier`` comes before."""
        anchors, said = earlier.anchors + self.anchors, earlier.said + self.said
        return Captions(anchors, said, self.left_out, earlier.cues + self.cues)

    def of_groups(self, timestamps: Sequence[float], frames_per_group: int, before: float | None = None) -> list[Ids]:
        """What stands behind the timestamp of each group of these frames.

        ``before``: the time of the frame before the first of them; None: they are the first. Should a frame have been
        lost in decoding, its cues stand with the next one.
        """
        ends = range(frames_per_group, len(timestamps) + frames_per_group, frames_per_group)
        edges = [0 if before is None else bisect_right(self.anchors, before)]
        edges += [bisect_right(self.anchors, timestamps[min(end, len(timestamps)) - 1]) for end in ends]
        return [tuple(chain(*self.said[a:b])) for a, b in pairwise(edges)]
