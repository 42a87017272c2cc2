"""Look again: read the stretch that an answer looked at more densely, and answer once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from videoxl.config import Generation
from videoxl.inference.answers import Answer
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.inference.progress import Progress
from videoxl.inference.video_input import open_for_model
from videoxl.memory.video_memory import VideoMemory

if TYPE_CHECKING:
    from videoxl.model.configuration import VideoXLConfig
    from videoxl.video import VideoSource

MISSING = (
    "look_again reads a part of the video once more, and this memory does not know where its video is (it was loaded, "
    "extended, or not read from a file): give the video too, video='film.mp4'"
)


@dataclass(frozen=True, kw_only=True)
class LookAgain:
    """How the stretch that a first answer looked at is read once more.

    Models whose pictures have any size see them larger, since fewer frames share the budget of pixels.
    """

    rate: float = 4.0
    """Frames per second, as a multiple of the first reading's; at most those that the video has."""
    max_tokens: int = 8192
    """Visual tokens of the second reading, at most; the rate is lowered to keep to it."""
    margin: float | None = None
    """Seconds that are read before and behind the stretch; default: one group of the first reading."""

    def __post_init__(self) -> None:
        if not 1 < self.rate < float("inf"):
            raise ValueError(f"rate must be above 1, the rate of the first reading, got {self.rate!r}")
        if isinstance(self.max_tokens, bool) or not isinstance(self.max_tokens, int) or self.max_tokens < 1:
            raise ValueError(f"max_tokens must be a whole number of at least 1, got {self.max_tokens!r}")
        if self.margin is not None and not 0 <= self.margin < float("inf"):
            raise ValueError(f"margin must be seconds, at least 0, got {self.margin!r}")


@dataclass(frozen=True)
class Looker:
    """Answers questions about a memory once more, from its opened video."""

    config: VideoXLConfig
    encode: Callable[..., VideoMemory]
    """Of the engine."""
    ask: Callable[[VideoMemory, str, Generation], Answer]
    """Of the engine, with the decode strategy of the first answer."""
    memory: VideoMemory
    source: VideoSource
    how: LookAgain
    progress: Progress

    def __post_init__(self) -> None:
        require_same_video(self.memory, self.source)

    def again(self, question: str, generation: Generation, first: Answer) -> Answer:
        """The second answer, which holds the first; or the first with a warning that says why there is no second."""
        chosen = self._sampling(first) if first.evidence else "did not look again: the answer looked at no stretch"
        if isinstance(chosen, str):
            return replace(first, warnings=(*first.warnings, chosen))
        strategy = for_question(choose_prefill(self.memory.prefill, self.config), question)
        origin = self.memory.origin
        settings: dict[str, Any] = dict(origin.settings) if origin else {}
        tracks = [track.shown_from(chosen["start"], chosen["end"]) for track in self.memory.tracks]
        memory = self.encode(self.source, **chosen, **settings, tracks=tracks, prefill=strategy, progress=self.progress)
        second = self.ask(memory, question, generation)
        if not tracks and self.memory.usage.subtitles is not None:  # the file of an earlier version
            second = replace(
                second, warnings=(*second.warnings, "looked again without the subtitles of the first reading")
            )
        return replace(second, first=first)

    def _sampling(self, first: Answer) -> dict[str, Any] | str:
        """What is read, or why nothing is."""
        source, groups = self.source, self.memory.groups
        best = first.evidence[0]
        group = self.memory.duration / len(groups)
        margin = group if self.how.margin is None else self.how.margin
        begin, end = max(groups[0].start_s, best.start - margin), min(groups[-1].end_s, best.end + margin)
        if source.times_F is None or source.is_still:
            return "did not look again: the video can be read only once"
        had = sum(begin <= time < end for time in self.memory.timestamps)
        there = int(np.count_nonzero((source.times_F >= begin) & (source.times_F < end)))
        most = self.how.max_tokens // self.config.tokens_per_group * self.config.frames_per_group
        frames = min(there, most, round(max(1, had) * self.how.rate))
        if frames <= had:
            small = f"max_tokens={self.how.max_tokens} allow no more frames"
            why = "the video has no more frames there" if there <= had else small
            return f"did not look again at {begin:.1f} s to {end:.1f} s: {why}"
        return {"start": begin, "end": end, "fps": frames / (end - begin), "max_frames": most}


def choose_look(look_again: object) -> LookAgain | None:
    """What ``look_again=...`` asks for. Raises ``ValueError``."""
    if look_again is False or look_again is None:
        return None
    if look_again is True:
        return LookAgain()
    if not isinstance(look_again, LookAgain):
        raise ValueError(f"look_again must be True, False or a LookAgain, got {look_again!r:.80}")
    return look_again


def require_evidence(generations: Sequence[Generation]) -> None:
    """Raise ``ValueError`` where an answer will not say what it looked at."""
    if not all(generation.evidence for generation in generations):
        raise ValueError("look_again reads what the evidence of an answer names: leave out evidence=False")


def check_at_hand(memory: VideoMemory, video: object) -> None:
    """Raise ``ValueError`` where the video of a memory is not at hand."""
    if video is None and (memory.origin is None or memory.origin.video is None):
        raise ValueError(MISSING)


def require_same_video(memory: VideoMemory, source: VideoSource) -> None:
    """Raise ``ValueError`` for another video than the one that a memory was read from."""
    digest = memory.usage.digest
    if digest is not None and source.digest not in (None, digest):
        raise ValueError(f"{source.name} is not the video that this memory was read from: its content differs")


def open_again(memory: VideoMemory, video: object) -> AbstractContextManager[VideoSource]:
    """Open the video of a memory once more. Raises ``ValueError`` where it is not at hand."""
    origin = memory.origin
    if video is not None:
        return open_for_model(video)
    opening: Any = origin.opening if origin else {}
    return open_for_model(origin.video if origin else None, **opening)
