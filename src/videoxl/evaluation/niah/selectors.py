"""Selectors choose which blocks of a memory a question reads densely. They are compared on the same haystacks.

==========  ======================================================================================================
oracle      the blocks that hold the needle, as a selector that never errs would choose
attention   ``relevance="attention"``, the package's default
siglip      ``relevance="siglip"``, with a SigLIP model; not available without one
random      ``top_k`` random blocks
none        no block but the first and the last, which are always read densely; all others are averaged
dense       all blocks, as without bi-level decoding
==========  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from videoxl.config import BiLevelDecode, DecodeStrategy, DenseDecode
from videoxl.evaluation.niah.needles import Question
from videoxl.evaluation.niah.settings import GIVEN
from videoxl.inference.decode.siglip import SiglipRelevance, watching
from videoxl.memory.pooling import blocks_of
from videoxl.memory.video_memory import VideoMemory
from videoxl.video import VideoSource

DecodeFor = Callable[[Question, tuple[int, ...]], DecodeStrategy]
"""Returns how to decode for a question and a seed."""


def decode_for(
    selector: str,
    base: DecodeStrategy,
    memory: VideoMemory,
    source: VideoSource,
    *,
    siglip: SiglipRelevance | None = None,
    frames_per_group: int = 4,
) -> DecodeFor:
    """Return how questions about a memory are decoded with a selector.

    Args:
        base: the strategy asked for; a :class:`BiLevelDecode` for all selectors but ``given`` and ``dense``.
        source: the video of the memory, which SigLIP looks at.
        siglip: required for the selector of that name.
    """
    if selector == GIVEN:
        chosen = watching(base, memory, source, {})
        return lambda question, seed: chosen
    if selector == "dense" or not isinstance(base, BiLevelDecode):
        return lambda question, seed: DenseDecode()
    bilevel = replace(base, looks=1) if selector in ("oracle", "random", "none") else base  # they name blocks
    blocks = len(blocks_of(len(memory.groups), bilevel.block_size))

    def oracle(question: Question, seed: tuple[int, ...]) -> DecodeStrategy:
        return replace(bilevel, relevance=needle_blocks(question, bilevel, frames_per_group))

    def random(question: Question, seed: tuple[int, ...]) -> DecodeStrategy:
        inner = np.random.default_rng(seed).permutation(np.arange(1, blocks - 1))[: bilevel.top_k]
        return replace(bilevel, relevance=tuple(inner.tolist()) or (0,))

    if selector == "oracle":
        return oracle
    if selector == "random":
        return random
    if selector == "siglip":
        if siglip is None:
            raise ValueError("the selector siglip needs a SigLIP model")
        seen = siglip.watch(memory, source)
        return lambda question, seed: replace(bilevel, relevance=seen)
    return lambda question, seed: replace(bilevel, relevance="attention" if selector == "attention" else (0,))


def needle_blocks(question: Question, decode: BiLevelDecode, frames_per_group: int) -> tuple[int, ...]:
    """Return the numbers of the blocks in which the needle of a question is shown."""
    first, stop = question.frames
    per_block = frames_per_group * decode.block_size
    return tuple(range(first // per_block, (stop - 1) // per_block + 1))


def is_inner_needle(question: Question, base: DecodeStrategy, frames_per_group: int, groups: int) -> bool | None:
    """Return whether a needle lies outside the first and last block, which every selector reads densely.

    ``groups``: of the whole memory. None for a strategy without blocks.
    """
    if not isinstance(base, BiLevelDecode):
        return None
    last = len(blocks_of(groups, base.block_size)) - 1
    return not {0, last} & set(needle_blocks(question, base, frames_per_group))
