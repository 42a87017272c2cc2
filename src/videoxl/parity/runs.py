"""Steps that checks of whole runs share, from recorded pixels to generated tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch

from videoxl.config import Generation
from videoxl.inference.decode.loop import decode_tokens
from videoxl.inference.prefill.tiles import Tile
from videoxl.memory.kv_cache import KVCache
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.parity.golden import Case


def text_tokenizer(special_ids: dict[str, int]) -> Callable[[str], list[int]]:
    """Return a tokenizer of timestamps: the word ``Time`` is one token, every other character is one."""

    def tokenize(text: str) -> list[int]:
        pieces = re.findall(r"Time|.", text)
        return [special_ids[piece] for piece in pieces]

    return tokenize


def tiles(pixels: torch.Tensor, times: list[float], size: int) -> Iterator[Tile]:
    """Yield tiles of ``size`` frames."""
    for first in range(0, len(times), size):
        yield Tile(pixels[first : first + size], tuple(times[first : first + size]))


def generated(
    model: VideoXLForConditionalGeneration, ids: list[int], cache: KVCache, settings: Generation
) -> tuple[list[int], torch.Tensor]:
    """The answer after ``ids``, of which ``cache`` holds the beginning: its ids, and their logits ``[T, V]``."""
    tokens = list(decode_tokens(model, ids, cache, settings, keep_logits=True))
    return [token.id for token in tokens], torch.stack([t.logits_V for t in tokens if t.logits_V is not None])


def compare_generated(case: Case, model: VideoXLForConditionalGeneration, ids: list[int], cache: KVCache) -> None:
    """Generate after the cache, and compare tokens and logits."""
    settings = Generation(max_new_tokens=case.spec["max_new_tokens"])
    new_ids, logits_TV = generated(model, ids, cache, settings)
    case.compare("generated", new_ids)
    case.compare("step_logits", logits_TV)
