"""Subtitles on the time axis of a video: each cue stands after the timestamp of the group of frames it begins in.

From there on a cue is part of that timestamp. In chunked prefill it attends to everything before it, and everything
after it attends to it; bi-level decoding keeps it whole in blocks that are averaged; a memory that is cut to a part of
the video keeps the cues of that part. No strategy has a rule of its own for subtitles.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise, repeat

from videoxl.cues import ScreenCue, SpokenCue
from videoxl.inference.prompt import Tokenize
from videoxl.memory.layout import Group
from videoxl.video import VideoSource
from videoxl.video.subtitles import Cue, read_subtitles

Ids = tuple[int, ...]


AUTO = "auto"
"""In the place of a subtitle file: the video's own subtitle track. ``auto:3`` and ``auto:eng`` choose one."""


def cues_of(subtitles: object, source: VideoSource) -> tuple[Cue, ...]:
    """Read a subtitle file or a track of the opened video itself, or sort cues by time.

    What a user should know about it is added to the warnings of ``source``. Raises ``ValueError`` for anything else
    and ``VideoError`` for a bad file or track.
    """
    if isinstance(subtitles, str) and subtitles.partition(":")[0] == AUTO and not os.path.exists(subtitles):
        return source.subtitle_track(subtitles.partition(":")[2])
    if isinstance(subtitles, (str, os.PathLike)):
        return read_subtitles(subtitles, source.info.fps, source.note)
    if isinstance(subtitles, Sequence) and all(isinstance(cue, Cue) for cue in subtitles):
        return tuple(sorted(subtitles, key=_begin))
    kind = type(subtitles).__name__
    raise ValueError(f"subtitles must be a subtitle file such as .srt or .vtt, 'auto', or a list of Cue, got {kind}")


def _begin(cue: Cue) -> float:
    """Sort key; cues that begin together keep their order."""
    return cue.start_s


MARKS = ((SpokenCue, "(speech) "), (ScreenCue, "(on screen) "))
"""What stands before a cue that is no subtitle, so that a model can tell them apart."""


def cue_text(cue: Cue) -> str:
    """Format a cue as it is read after a timestamp or another cue.

    ``Time 12.0s: "Hello." "Who is there?" (speech) "Hello, who is there?" (on screen) "EXIT"``.
    """
    mark = next((mark for kind, mark in MARKS if isinstance(cue, kind)), "")
    return f' {mark}"{" ".join(cue.text.split()) if mark else cue.text}"'


def check_place(family: str, time_format: str, *, still: bool = False) -> None:
    """Raise ``ValueError`` where there is no timestamp that subtitles could follow."""
    if not time_format:
        raise ValueError(f"{family} has no timestamps to put subtitles behind, or tracks: put them in the question")
    if still:
        raise ValueError("a still picture has no subtitles and no other tracks")


def later_cues(cues: Iterable[Cue], known_end_s: float, next_s: float) -> list[Cue]:
    """Keep the cues that begin at ``known_end_s`` or later; none begins before the next frame, at ``next_s``."""
    late = (cue for cue in cues if cue.start_s >= known_end_s)
    return [replace(cue, start_s=max(cue.start_s, next_s), end_s=max(cue.end_s, next_s)) for cue in late]


@dataclass(frozen=True)
class PlacedSubtitles:
    """Token ids of subtitles, each cue with the frame that is shown when it begins."""

    frame_times: tuple[float, ...]
    """Times of those frames, ascending; one for each entry of :attr:`ids`."""
    ids: tuple[Ids, ...]
    left_out: int = 0
    """Cues that are shown at no time of the part that is read."""
    cues: int = 0
    """Number of cues in :attr:`ids`."""

    @classmethod
    def place(
        cls, cues: Sequence[Cue], timestamps: Sequence[float], end_s: float, tokenize: Tokenize
    ) -> PlacedSubtitles:
        """Place cues at frames. A cue that began before the first frame and is still shown goes to the first frame.

        Args:
            timestamps: seconds of all frames to read, ascending; the last frame is shown until ``end_s``.
            tokenize: tokenises a user's words, in which control tokens are plain text.
        """
        frame_times, ids = [], []
        for cue in sorted(cues, key=_begin):
            began_earlier = cue.start_s < timestamps[0]
            if cue.start_s >= end_s or (began_earlier and cue.end_s <= timestamps[0]):
                continue
            frame_times.append(timestamps[max(0, bisect_right(timestamps, cue.start_s) - 1)])
            ids.append(tuple(tokenize(cue_text(cue))))
        return cls(tuple(frame_times), tuple(ids), left_out=len(cues) - len(ids), cues=len(ids))

    @classmethod
    def read_before(
        cls,
        ids: Sequence[int],
        groups: Iterable[Group],
        times: Iterable[int],
        cues: int,
        *,
        opening: int = 0,
        closing: Iterable[int] = repeat(0),
    ) -> PlacedSubtitles:
        """Recover the ``cues`` cues of a visual span from its ids: they stand between timestamp and visual tokens.

        ``times``: tokens of each group's timestamp; ``closing``: those in front of it, ``opening``: in front of its
        visual tokens.
        """
        frame_times, found = [], []
        for group, time, before in zip(groups, times, closing):
            begin, end = group.token_start + before + time, group.visual_start - opening
            if begin < end:
                frame_times.append(group.start_s)
                found.append(tuple(ids[begin:end]))
        return cls(tuple(frame_times), tuple(found), cues=cues)

    def after(self, earlier: PlacedSubtitles | None) -> PlacedSubtitles:
        """Join these with ``earlier`` ones, all of which come first."""
        if earlier is None:
            return self
        frame_times, ids = earlier.frame_times + self.frame_times, earlier.ids + self.ids
        return PlacedSubtitles(frame_times, ids, self.left_out, earlier.cues + self.cues)

    def of_groups(self, timestamps: Sequence[float], frames_per_group: int, before: float | None = None) -> list[Ids]:
        """List the ids that follow the timestamp of each group of these frames.

        ``before``: the time of the frame before the first of them; None: they are the first. If a frame was lost in
        decoding, its cues go to the next one.
        """
        ends = range(frames_per_group, len(timestamps) + frames_per_group, frames_per_group)
        edges = [0 if before is None else bisect_right(self.frame_times, before)]
        edges += [bisect_right(self.frame_times, timestamps[min(end, len(timestamps)) - 1]) for end in ends]
        return [tuple(chain(*self.ids[a:b])) for a, b in pairwise(edges)]

    @property
    def tokens(self) -> int:
        """Number of tokens of all cues."""
        return sum(len(ids) for ids in self.ids)
