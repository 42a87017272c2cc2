"""What every prefill strategy offers: it takes visual tokens and fills the cache that questions are asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from videoxl.inference.prompt import VisualSpan
from videoxl.memory.kv_cache import KVCache
from videoxl.model.videoxl import VideoXLForConditionalGeneration

NewCache = Callable[[int], KVCache]
"""Makes an empty cache for so many tokens."""


def plain_caches(model: VideoXLForConditionalGeneration) -> NewCache:
    """Caches that hold keys and values as they are computed."""
    return lambda reserve: KVCache(model.model.num_text_layers, reserve=reserve)


@dataclass(frozen=True)
class PrefillState:
    """What was read before and stays: all of ``cache``, its ids, and the times of its frames."""

    cache: KVCache
    token_ids: tuple[int, ...]
    timestamps: tuple[float, ...]
    span: VisualSpan
    """Ids and groups of those frames, as they were before anything was compressed."""

    @property
    def tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Committed:
    """How much of a reading stays as it is when more frames follow."""

    frames: int
    tokens: int
    """Tokens of the cache, the prefix included."""


class Prefiller(Protocol):
    """Takes the visual tokens of whole groups, in order, and runs the language model over them when it sees fit."""

    cache: KVCache
    """Rotated keys at contiguous positions, and values."""
    warnings: list[str]
    """What was done differently than asked, one sentence each."""

    @property
    def window_ratios(self) -> tuple[int, ...]:
        """The compression ratio of every window; empty where nothing is compressed."""
        ...

    @property
    def ids(self) -> Sequence[int]:
        """One id per token in the cache; visual tokens as placeholders."""
        ...

    @property
    def most_pending_frames(self) -> int:
        """Frames at the end that may have to be read again when more follow, at most."""
        ...

    def add(self, span: VisualSpan, tokens_PD: torch.Tensor) -> None:
        """Take the next groups: where their timestamps and visual tokens stand, and the visual tokens."""
        ...

    def finish(self) -> None:
        """No more groups follow."""
        ...

    def committed(self, frames: int, span: VisualSpan) -> Committed:
        """How much of a finished reading of ``frames`` frames, laid out as ``span``, stays when more follow."""
        ...


class WholeGroups:
    """The part of a prefiller that keeps every group of frames: only a last group that is not full is read again."""

    window_ratios: tuple[int, ...] = ()

    def __init__(self, model: VideoXLForConditionalGeneration, prefix_ids: Sequence[int]) -> None:
        self.model, self.prefix_ids = model, list(prefix_ids)
        self.ids: list[int] = []
        self.warnings: list[str] = []

    @property
    def most_pending_frames(self) -> int:
        return self.model.config.frames_per_group

    def committed(self, frames: int, span: VisualSpan) -> Committed:
        whole, rest = divmod(frames, self.model.config.frames_per_group)
        tokens = len(self.prefix_ids) + span.groups[whole].token_start if rest else len(self.ids)
        return Committed(frames - rest, tokens)
