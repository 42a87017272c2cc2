"""Which prefill strategies a model knows, and the writer behind each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from videoxl.config import (
    PREFILLS,
    BeaconPrefill,
    ChunkedPrefill,
    PrefillStrategy,
    SelectivePrefill,
    prefill_from_string,
)
from videoxl.inference.prefill.beacon import BeaconWriter, count_beacons
from videoxl.inference.prefill.chunked import chunked_writer
from videoxl.inference.prefill.full import CacheWriter, FullWriter
from videoxl.inference.prefill.read import FRAMES_PER_TILE
from videoxl.inference.prefill.selective import SelectiveWriter
from videoxl.inference.prompt import ChatFormat, VisualSpan
from videoxl.memory.kv_cache import KVCache
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.token_scores import kept_count


def choose_prefill(prefill: PrefillStrategy | str | None, config: VideoXLConfig) -> PrefillStrategy:
    """The strategy asked for, by value or by name, or the model's default.

    Raises ``ValueError`` for what is no strategy, and for one that the model's family was not made for.
    """
    if prefill is None:
        return config.traits.default_prefill(config)
    chosen = prefill_from_string(prefill) if isinstance(prefill, str) else prefill
    if not isinstance(chosen, tuple(PREFILLS.values())):
        raise ValueError(f"prefill must be a prefill strategy or its name, got {type(chosen).__name__}")
    allowed = tuple(supported.strategy for supported in config.traits.prefills)
    if not isinstance(chosen, allowed):
        names = ", ".join(name for name, kind in PREFILLS.items() if kind in allowed)
        raise ValueError(f"prefill {str(chosen)!r} is not for {config.family}; it has {names}")
    return chosen


def for_question(strategy: PrefillStrategy, question: str) -> PrefillStrategy:
    """The strategy with which a video is read for one question: what can judge by it does."""
    if isinstance(strategy, SelectivePrefill) and strategy.about is None:
        return replace(strategy, about=question)
    return strategy


def memory_tokens(strategy: PrefillStrategy, config: VideoXLConfig, prefix_tokens: int, span: VisualSpan) -> int:
    """Tokens that a video of this span leaves in the cache, the ``prefix_tokens`` before it included: exactly."""
    visual = span.visual_tokens
    if isinstance(strategy, BeaconPrefill):
        return prefix_tokens + count_beacons(config, strategy, prefix_tokens, visual)
    kept = kept_count(visual, strategy.keep) if isinstance(strategy, SelectivePrefill) else visual
    return prefix_tokens + len(span.ids) - visual + kept


@dataclass(frozen=True)
class PrefillState:
    """What was read before and stays: all of ``cache``, its ids, and the times of its frames."""

    cache: KVCache
    token_ids: tuple[int, ...]
    timestamps: tuple[float, ...]

    @property
    def tokens(self) -> int:
        return len(self.token_ids)


def make_writer(
    strategy: PrefillStrategy,
    model: Any,
    prefix_ids: Sequence[int],
    *,
    visual_tokens: int | None,
    tokens: int,
    chat_format: ChatFormat,
    room: int = 0,
    before: PrefillState | None = None,
) -> CacheWriter:
    """The writer of a strategy.

    Args:
        visual_tokens, tokens: those of the whole video, where known (else None, 0).
        room: tokens that questions will need, to have buffers of the right size from the start.
        before: what the writer goes on from.
    """
    held: dict[str, Any] = {"cache": before.cache, "ids": before.token_ids} if before else {}
    reserve = tokens + room if tokens else 0
    if isinstance(strategy, SelectivePrefill):
        text_ids = [*prefix_ids, *chat_format.suffix(strategy.about or "")]
        return SelectiveWriter(
            model, prefix_ids, strategy, text_ids=text_ids, visual_tokens=visual_tokens, tokens=reserve
        )
    if isinstance(strategy, BeaconPrefill):
        seen = len(before.timestamps) * model.config.tokens_per_group if before else 0
        return BeaconWriter(
            model, prefix_ids, strategy, visual_tokens=visual_tokens, room=room, seen=seen, cache=held.get("cache")
        )
    if isinstance(strategy, ChunkedPrefill):
        return chunked_writer(model, prefix_ids, strategy, reserve=reserve, **held)
    return FullWriter(model, prefix_ids, reserve=reserve, **held)


def frames_per_tile(strategy: PrefillStrategy, config: VideoXLConfig) -> int:
    """Frames that go through the model together: whole groups."""
    if isinstance(strategy, ChunkedPrefill):
        return strategy.vision_batch * config.frames_per_group
    return FRAMES_PER_TILE


def sampled_in_multiples_of(strategy: PrefillStrategy, config: VideoXLConfig) -> int:
    """What the number of frames sampled from a file must be a multiple of (SPEC 3.5).

    Full prefill drops an unfilled last group, the chunked one keeps it and repeats its last frame's features.
    """
    return 1 if isinstance(strategy, ChunkedPrefill) else config.frames_per_group
