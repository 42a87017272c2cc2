"""What a reading will hold: decided before the first frame is decoded, for ``encode`` and for ``plan`` alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoxl.config import PrefillStrategy
from videoxl.inference.plan.footprint import Sizes
from videoxl.inference.prompt import ChatFormat, VisualSpan, join_spans, last_end, span_for
from videoxl.inference.subtitles import PlacedSubtitles, later_cues
from videoxl.model.configuration import VideoXLConfig
from videoxl.video.subtitles import Cue


@dataclass(frozen=True)
class ReadBefore:
    """The part of a video that was read before."""

    timestamps: tuple[float, ...]
    """Of all of its frames."""
    end_s: float
    """Where its last group ends."""
    span: VisualSpan
    """Ids and groups that stay, whatever follows: full groups of the first frames."""
    subtitles: PlacedSubtitles | None = None
    """Those of the frames behind ``span``."""


@dataclass(frozen=True)
class ReadPlan:
    """The frames of a reading, their ids with subtitles, and the sizes that follow."""

    timestamps: tuple[float, ...]
    """Seconds of all frames, those read before included."""
    span: VisualSpan
    subtitles: PlacedSubtitles | None
    sizes: Sizes

    @property
    def tokens(self) -> int:
        """Tokens of the prefix and of the uncompressed video."""
        return self.sizes.prefix + len(self.span.ids)


def plan_reading(
    config: VideoXLConfig,
    chat_format: ChatFormat,
    strategy: PrefillStrategy,
    timestamps: Sequence[float],
    *,
    prefix_tokens: int,
    end_s: float | None = None,
    cues: Sequence[Cue] | None = None,
    before: ReadBefore | None = None,
) -> ReadPlan:
    """Lay out frames and subtitles.

    Args:
        timestamps: seconds of the frames to read, ascending; not empty.
        prefix_tokens: tokens before the video.
        end_s: the second at which the last group ends; default: one frame distance after the last frame.
        cues: subtitles; None: there are none. Those that begin within ``before`` were read with it.
        before: what was read before, when this continues it.
    """
    times = [*(before.timestamps if before else ()), *timestamps]
    kept = before.span if before else VisualSpan((), ())
    new_times, last = times[len(kept.groups) * config.frames_per_group :], last_end(times, end_s)
    placed = before.subtitles if before else None
    if cues is not None:
        new = later_cues(cues, before.end_s, timestamps[0]) if before else cues
        placed = PlacedSubtitles.place(new, timestamps, last, chat_format.tokenize_user).after(placed)
    subtitle_ids = placed.of_groups(new_times, config.frames_per_group) if placed is not None else None
    new_span = span_for(config, new_times, chat_format.tokenize, subtitle_ids=subtitle_ids, continued=bool(kept.groups))
    span = join_spans([kept, new_span], last)
    return ReadPlan(tuple(times), span, placed, Sizes.of(strategy, config, len(times), prefix_tokens, span))
