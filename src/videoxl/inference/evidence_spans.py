"""From attention to tokens to stretches of video.

Shapes: ``S`` tokens in a cache, ``G`` groups of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from videoxl.config import prefill_from_string
from videoxl.memory.layout import Group
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.windows import beacon_slots

MOST_SPANS = 5
"""Stretches that are named."""
STANDS_OUT = 0.5
"""A group belongs to a stretch from this share of the best group's attention on."""


class UnknownTokensError(ValueError):
    """A memory does not say which of its tokens stand for which group of frames, as an old file may not."""


class EvidenceSpan(NamedTuple):
    """A stretch of video that an answer's tokens looked at, in seconds, and its share of their attention to the video.

    The shares of all of the video add up to 1.
    """

    start: float
    end: float
    share: float


@dataclass(frozen=True)
class GroupTokens:
    """Which tokens of a cache stand for which group of frames."""

    tokens: np.ndarray
    """Indices of tokens."""
    groups: np.ndarray
    """The group of each."""
    weights: np.ndarray
    """The part of the token that stands for the group: below 1 where a beacon stands for several."""
    count: int
    """Number of groups."""

    @classmethod
    def of(cls, memory: VideoMemory, ids: Sequence[int], config: VideoXLConfig) -> GroupTokens:
        """Of a memory as ``ids`` read it: whole, with averages in it, with tokens left out, or as beacons.

        A timestamp and its subtitles belong to their group. Raises :class:`UnknownTokensError`.
        """
        groups, prefix = memory.groups, memory.prefix_length
        if memory.usage.window_ratios:
            return _of_beacons(memory, len(ids) - prefix, config)
        visual_S = np.isin(ids[prefix:], (config.video_token_id, config.image_token_id))
        texts_G = np.array([group.visual_start - group.token_start for group in groups])
        if texts_G.any():  # a visual token belongs to the group of the last text before it
            group_S = np.searchsorted(np.cumsum(texts_G), np.cumsum(~visual_S) - 1, side="right")
        else:
            group_S = np.repeat(np.arange(len(groups)), _visual_tokens(memory))
        if len(group_S) != len(visual_S) or (~visual_S).sum() != texts_G.sum():
            raise UnknownTokensError(f"the {len(visual_S)} tokens of the memory do not fit its {len(groups)} groups")
        return cls(np.arange(prefix, len(ids)), group_S, np.ones(len(group_S)), len(groups))

    @property
    def end(self) -> int:
        """The end of the video among the tokens of the cache."""
        return int(self.tokens[-1]) + 1

    def sum(self, mass_S: np.ndarray) -> np.ndarray:
        """What each group gets of a number per token, ``[G]``."""
        return np.bincount(self.groups, mass_S[self.tokens] * self.weights, minlength=self.count)


def _visual_tokens(memory: VideoMemory) -> list[int]:
    """Visual tokens of each group, before anything was compressed or left out."""
    return [group.token_end - group.visual_start for group in memory.groups]


@lru_cache(maxsize=8)
def _own_window(prefill: str) -> int | None:
    """The window that a strategy names."""
    return getattr(prefill_from_string(prefill), "window", None)


def _of_beacons(memory: VideoMemory, beacons: int, config: VideoXLConfig) -> GroupTokens:
    """A beacon stands evenly for the visual tokens that it follows, and these for their frames."""
    group_P = np.repeat(np.arange(len(memory.groups)), _visual_tokens(memory))
    window = _own_window(memory.prefill) or config.beacon_window
    ends: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    remainder = 0
    for begin, ratio in zip(range(0, len(group_P), window), memory.usage.window_ratios):
        raw = min(window, len(group_P) - begin)
        slots = np.array(beacon_slots(raw, ratio, remainder), dtype=np.int64)
        ends.append(begin + slots - np.arange(len(slots)))
        sizes.append(np.full(len(slots), ratio))
        remainder = (raw + remainder) % ratio
    kept = slice(None) if config.beacon_accum else slice(-1, None)  # of the windows, where they replace one another
    end_B, size_B = np.concatenate(ends[kept]), np.concatenate(sizes[kept])
    if len(end_B) != beacons:
        raise UnknownTokensError(f"the memory has {beacons} beacons, its windows make {len(end_B)}")
    beacon_T = np.repeat(np.arange(beacons), size_B)
    back_T = np.repeat(np.cumsum(size_B), size_B) - np.arange(len(beacon_T))  # size_B, size_B - 1 ... 1
    return GroupTokens(
        tokens=memory.prefix_length + beacon_T,
        groups=group_P[end_B[beacon_T] - back_T],
        weights=1.0 / size_B[beacon_T],
        count=len(memory.groups),
    )


def spans_of(mass_G: np.ndarray, groups: Sequence[Group]) -> tuple[EvidenceSpan, ...]:
    """The stretches that stand out, the one with most attention first; none where there was no attention at all.

    A stretch is neighbouring groups that each get at least :data:`STANDS_OUT` of what the best group gets.
    """
    if not mass_G.sum() > 0:
        return ()
    share_G = mass_G / mass_G.sum()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], share_G >= STANDS_OUT * share_G.max(), [False]])))
    runs = [(float(share_G[first:end].sum()), first, end) for first, end in edges.reshape(-1, 2).tolist()]
    best = sorted(runs, key=lambda run: (-run[0], run[1]))[:MOST_SPANS]
    return tuple(
        EvidenceSpan(groups[first].start_s, groups[end - 1].end_s, round(share, 4)) for share, first, end in best
    )
