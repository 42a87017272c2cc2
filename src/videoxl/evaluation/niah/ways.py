"""Ways of reading a memory for a question, to be compared on the same haystacks: who chooses what is read densely.

==========  ======================================================================================================
oracle      the blocks that hold the needle, as a judge that cannot err would choose
attention   ``relevance="attention"``, the product's own
siglip      ``relevance="siglip"``, with a SigLIP model that is named; without one it is not available
random      as many blocks as ``top_k`` says, drawn
none        no block but the first and the last, which are always read: all others averaged
dense       everything, as without bi-level decoding
==========  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from videoxl.config import BiLevelDecode, DecodeStrategy, DenseDecode
from videoxl.evaluation.niah.needles import Asked
from videoxl.evaluation.niah.settings import GIVEN
from videoxl.inference.decode.siglip import watching
from videoxl.memory.pooling import blocks_of
from videoxl.memory.video_memory import VideoMemory
from videoxl.video import VideoSource

Decode = Callable[[Asked, tuple[int, ...]], DecodeStrategy]
"""From a question and a seed to how it is read."""


def decoder(
    way: str, base: DecodeStrategy, memory: VideoMemory, source: VideoSource, *, siglip: Any = None, frames: int = 4
) -> Decode:
    """How questions about a memory are read.

    Args:
        base: the strategy asked for; a :class:`BiLevelDecode` for all ways but ``given`` and ``dense``.
        source: the video of the memory, for SigLIP to look at.
        siglip: a :class:`SiglipRelevance`, for the way of that name.
        frames: of the model, per group.
    """
    if way == GIVEN:
        chosen = watching(base, memory, source, {})
        return lambda asked, seed: chosen
    if way == "dense" or not isinstance(base, BiLevelDecode):
        return lambda asked, seed: DenseDecode()
    two_levels = base
    count = len(blocks_of(len(memory.groups), base.block_size))
    fixed: dict[str, Any] = {"attention": "attention", "none": (0,)}
    if way == "siglip":
        fixed[way] = siglip.watch(memory, source)
    if way in fixed:
        return lambda asked, seed: replace(two_levels, relevance=fixed[way])

    def oracle(asked: Asked, seed: tuple[int, ...]) -> DecodeStrategy:
        return replace(two_levels, relevance=evidence_blocks(asked, two_levels, frames))

    def drawn(asked: Asked, seed: tuple[int, ...]) -> DecodeStrategy:
        inner = np.random.default_rng(seed).permutation(np.arange(1, count - 1))[: two_levels.top_k]
        return replace(two_levels, relevance=tuple(inner.tolist()) or (0,))

    return {"oracle": oracle, "random": drawn}[way]


def evidence_blocks(asked: Asked, decode: BiLevelDecode, frames_per_group: int) -> tuple[int, ...]:
    """The blocks in which a needle is shown."""
    first, stop = asked.frames
    per_block = frames_per_group * decode.block_size
    return tuple(range(first // per_block, (stop - 1) // per_block + 1))


def is_inner(asked: Asked, base: DecodeStrategy, frames_per_group: int, groups: int) -> bool | None:
    """Whether no part of a needle stands in the first or last block, which every way reads; None without blocks."""
    if not isinstance(base, BiLevelDecode):
        return None
    last = len(blocks_of(groups, base.block_size)) - 1
    return not {0, last} & set(evidence_blocks(asked, base, frames_per_group))
