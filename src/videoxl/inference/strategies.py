"""Which prefill strategies a model knows, and the writer behind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from videoxl.config import PREFILLS, BeaconPrefill, ChunkedPrefill, FullPrefill, PrefillStrategy, prefill_from_string
from videoxl.inference.beacon import BeaconWriter
from videoxl.inference.chunked import chunked_writer
from videoxl.inference.prefill import FRAMES_PER_TILE
from videoxl.inference.writers import CacheWriter, FullWriter
from videoxl.model.configuration import VIDEO_XL, VIDEO_XL_2, VideoXLConfig

ALLOWED: dict[str, tuple[type[PrefillStrategy], ...]] = {
    VIDEO_XL: (BeaconPrefill, FullPrefill),
    VIDEO_XL_2: (FullPrefill, ChunkedPrefill),
}
"""Family -> strategies its weights were made for; the first is its default."""


def choose_prefill(prefill: PrefillStrategy | str | None, config: VideoXLConfig) -> PrefillStrategy:
    """The strategy asked for, by value or by name, or the model's default.

    The default of Video-XL is what its ``config.json`` says (``beacon_ratio``, ``beacon_ratio_mix``), a random mix
    seeded anew for every video. Raises ``ValueError`` for what the model cannot do.
    """
    allowed = ALLOWED[config.family]
    if prefill is None:
        return default_prefill(config)
    chosen = prefill_from_string(prefill) if isinstance(prefill, str) else prefill
    if not isinstance(chosen, tuple(PREFILLS.values())):
        raise ValueError(f"prefill must be a prefill strategy or its name, got {type(chosen).__name__}")
    if not isinstance(chosen, allowed):
        names = ", ".join(name for name, kind in PREFILLS.items() if kind in allowed)
        raise ValueError(f"prefill {str(chosen)!r} is not for {config.family}; it has {names}")
    return chosen


def default_prefill(config: VideoXLConfig) -> PrefillStrategy:
    """What a model reads with when nothing is asked for."""
    if config.family == VIDEO_XL:
        return BeaconPrefill.from_released(list(config.beacon_ratio), config.beacon_ratio_mix)
    return ALLOWED[config.family][0]()


def make_writer(
    strategy: PrefillStrategy, model: Any, prefix_ids: Sequence[int], *, visual_tokens: int | None, tokens: int
) -> CacheWriter:
    """The writer of a strategy. ``visual_tokens`` and ``tokens`` are those of the video, where known (else None, 0)."""
    if isinstance(strategy, BeaconPrefill):
        return BeaconWriter(model, prefix_ids, strategy, visual_tokens=visual_tokens)
    if isinstance(strategy, ChunkedPrefill):
        return chunked_writer(model, prefix_ids, strategy, reserve=tokens)
    return FullWriter(model, prefix_ids, reserve=tokens)


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
