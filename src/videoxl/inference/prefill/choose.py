"""Choose a prefill strategy, and make the prefiller behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from videoxl.config import (
    PREFILLS,
    BeaconPrefill,
    ChunkedPrefill,
    FullPrefill,
    PrefillStrategy,
    SelectivePrefill,
    StateKVPrefill,
    prefill_from_string,
)
from videoxl.inference.prefill.beacon import BeaconPrefiller, count_beacons
from videoxl.inference.prefill.chunked import StreamingPrefiller, chunked_prefiller
from videoxl.inference.prefill.full import FullPrefiller
from videoxl.inference.prefill.prefiller import NewCache, Prefiller, PrefillState
from videoxl.inference.prefill.selective import SelectivePrefiller
from videoxl.inference.prefill.statekv import StateKVPrefiller
from videoxl.inference.prefill.tiles import FRAMES_PER_TILE, PATCHES_PER_TILE
from videoxl.inference.prompt import ChatFormat, VisualSpan
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.token_scores import kept_count
from videoxl.model.videoxl import VideoXLForConditionalGeneration


def choose_prefill(prefill: PrefillStrategy | str | None, config: VideoXLConfig) -> PrefillStrategy:
    """Return the strategy asked for, by value or by name, or the model's default.

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
    if isinstance(chosen, FullPrefill) and chosen.offload and not config.time_format:
        raise ValueError(f"prefill {str(chosen)!r} needs groups with a time, and {config.family} has none: use 'full'")
    return chosen


def for_question(strategy: PrefillStrategy, question: str) -> PrefillStrategy:
    """Let a strategy that can select by a question select by this one."""
    if isinstance(strategy, SelectivePrefill) and strategy.about is None:
        return replace(strategy, about=question)
    return strategy


def memory_tokens(strategy: PrefillStrategy, config: VideoXLConfig, prefix_tokens: int, span: VisualSpan) -> int:
    """Count the tokens that a video of this span leaves in the cache, those before it included."""
    visual = span.visual_tokens
    if isinstance(strategy, BeaconPrefill):
        return prefix_tokens + count_beacons(config, strategy, prefix_tokens, visual)
    kept = kept_count(visual, strategy.keep) if isinstance(strategy, SelectivePrefill) else visual
    return prefix_tokens + len(span.ids) - visual + kept


def make_prefiller(
    strategy: PrefillStrategy,
    model: VideoXLForConditionalGeneration,
    prefix_ids: Sequence[int],
    *,
    visual_tokens: int | None,
    tokens: int,
    chat_format: ChatFormat,
    config: VideoXLConfig | None = None,
    still: bool = False,
    spare: int = 0,
    before: PrefillState | None = None,
    new_cache: NewCache | None = None,
) -> Prefiller:
    """Make the prefiller of a strategy.

    Args:
        visual_tokens, tokens: those of the whole video, where known; else None and 0.
        config: the model's, for pictures of the video's size; default for those of a usual size.
        still: whether the video is one picture.
        spare: tokens that questions will need, so that buffers have the right size from the start.
        before: what was read before, which the prefiller goes on from.
        new_cache: makes the cache otherwise; default: one that holds keys and values as they are computed.
    """
    config = config or model.config
    cache, ids = (before.cache, before.token_ids) if before else (None, ())
    reserve = tokens + spare if tokens else 0
    if isinstance(strategy, SelectivePrefill):
        text_ids = [*prefix_ids, *chat_format.suffix(strategy.about or "")]
        return SelectivePrefiller(
            model,
            prefix_ids,
            strategy,
            text_ids=text_ids,
            visual_tokens=visual_tokens,
            tokens=reserve,
            new_cache=new_cache,
        )
    if isinstance(strategy, BeaconPrefill):
        seen = len(before.timestamps) * model.config.tokens_per_group if before else 0
        return BeaconPrefiller(
            model,
            prefix_ids,
            strategy,
            visual_tokens=visual_tokens,
            spare=spare,
            seen=seen,
            cache=cache,
            new_cache=new_cache,
        )
    given: dict[str, Any] = {"reserve": reserve, "cache": cache, "ids": ids, "new_cache": new_cache}
    if isinstance(strategy, ChunkedPrefill):
        return chunked_prefiller(model, prefix_ids, strategy, **given)
    grid = config.visual_grid if config.traits.tokens.position_dimensions == 3 else None
    if isinstance(strategy, StateKVPrefill):
        return StateKVPrefiller(model, prefix_ids, strategy, **given, grid=grid)
    if not strategy.offload:
        return FullPrefiller(model, prefix_ids, **given, grid=grid)
    return StreamingPrefiller(model, prefix_ids, strategy, still=still, **given, grid=grid)


def frames_per_tile(strategy: PrefillStrategy, config: VideoXLConfig) -> int:
    """How many frames go through the model together: whole groups."""
    if isinstance(strategy, ChunkedPrefill):
        return strategy.vision_batch * config.frames_per_group
    if not config.traits.vision.any_size:
        return FRAMES_PER_TILE
    group = config.frames_per_group
    return max(group, min(FRAMES_PER_TILE, PATCHES_PER_TILE // config.patches // group * group))


def sampled_in_multiples_of(strategy: PrefillStrategy, config: VideoXLConfig) -> int:
    """Give the number that frames sampled from a file must be a multiple of (SPEC 3.5).

    Full prefill drops an unfilled last group, the chunked one keeps it and repeats its last frame's features.
    """
    keeps = isinstance(strategy, ChunkedPrefill) or config.traits.tokens.keeps_short_group
    return 1 if keeps else config.frames_per_group
