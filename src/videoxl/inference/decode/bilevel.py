"""What a question starts from: the whole memory, or one mixed for it from two levels (SPEC 3.7)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from videoxl.config import DECODES, BiLevelDecode, DecodeStrategy, DenseDecode, decode_from_string
from videoxl.inference.answers import Span
from videoxl.inference.decode.fusion import Fused, fused, word_scores
from videoxl.inference.decode.released_units import ReleasedUnits
from videoxl.inference.decode.relevance import attention_scores
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import GroupLayout
from videoxl.memory.pooling import CoarseKV, blocks_of, closer, interleave, make_coarse_kv, plan_interleave
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families import names_with

WIDER = 4
"""Times as many blocks as are read are looked at twice."""


@dataclass(frozen=True)
class Question:
    """What is asked, as text and as ids."""

    text: str
    ids: Sequence[int]
    """Everything to be read after the video: earlier turns, then this question."""
    own: int
    """How many of ``ids`` are this question, at the end."""


@dataclass(frozen=True)
class Start:
    """A cache to answer from, the ids in it, and which stretches of the video it holds in full detail."""

    cache: KVCache
    ids: tuple[int, ...]
    read: tuple[Span, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """What choosing and mixing took."""


def choose_decode(decode: DecodeStrategy | str | None, config: VideoXLConfig) -> DecodeStrategy:
    """The strategy asked for, by value or by name; default :class:`DenseDecode`.

    Raises ``ValueError`` for what is none, or not for this model.
    """
    chosen = decode_from_string(decode) if isinstance(decode, str) else (decode or DenseDecode())
    if not isinstance(chosen, tuple(DECODES.values())):
        raise ValueError(f"decode must be a decode strategy or its name, got {type(chosen).__name__}")
    if isinstance(chosen, BiLevelDecode) and not config.traits.two_levels:
        owners = " and ".join(names_with(lambda family: family.two_levels))
        raise ValueError(f"bi-level decoding is for {owners}, this model is of {config.family}: use DenseDecode()")
    return chosen


def start_from(
    model: Any, memory: VideoMemory, decode: DecodeStrategy, question: Question, *, reserve: int = 0
) -> Start:
    """The cache that an answer under ``decode`` starts from. The memory stays as it is.

    ``reserve``: tokens of room behind it. Raises ``ValueError`` for a strategy that the model, the memory or the
    relevance does not allow.
    """
    if isinstance(decode, DenseDecode):
        return _dense(memory)
    begin = time.perf_counter()
    blocks = blocks_of(len(memory.groups), decode.block_size)
    named = named_blocks(decode, len(blocks))
    if named is None and len(blocks) - 2 <= decode.top_k:
        return _dense(memory)
    level = coarse_kv_for(model, memory, decode.pool)
    if named is None:
        scores = block_scores(model, memory, level, blocks, decode, question)
        if decode.looks > 1:
            scores = second_look(model, memory, level, blocks, best_blocks(scores, WIDER * decode.top_k), question)
    else:
        scores = np.isin(np.arange(len(blocks)), named).astype(np.float64)
    chosen = {0, len(blocks) - 1, *(best_blocks(scores, decode.top_k) if named is None else named)}
    if len(chosen) == len(blocks):
        return _dense(memory)
    plan = plan_interleave(level, groups_of(blocks, chosen, len(memory.groups)))
    with torch.inference_mode():
        cache = interleave(memory.cache, level, plan, model.model.language_model, reserve=len(plan) + reserve)
    judged = unit_scores(scores)
    groups = memory.groups
    spans = tuple(
        Span(groups[blocks[n].start].start_s, groups[blocks[n].stop - 1].end_s, judged[n]) for n in sorted(chosen)
    )
    return Start(cache, plan.ids, spans, {"select": round(time.perf_counter() - begin, 6)})


def _dense(memory: VideoMemory) -> Start:
    whole = Span(memory.groups[0].start_s, memory.groups[-1].end_s, 1.0)
    return Start(memory.cache, memory.token_ids, (whole,))


def coarse_kv_for(model: Any, memory: VideoMemory, pool: int) -> CoarseKV:
    """The pooled level of a memory, made at its first use and kept with it."""
    level = memory.coarse_kv.get(pool)
    if level is not None:
        return level
    token_id = model.config.video_token_id
    layout = GroupLayout.from_ids(memory.token_ids, memory.prefix_length, token_id)
    if len(layout) != len(memory.groups):
        raise ValueError(f"the memory's ids hold {len(layout)} groups, its time axis {len(memory.groups)}")
    language_model = model.model.language_model
    with torch.inference_mode():
        level = make_coarse_kv(
            memory.cache,
            memory.token_ids,
            layout,
            pool,
            rope=language_model,
            devices=[layer.input_layernorm.weight.device for layer in language_model.layers],
            video_token_id=token_id,
        )
    memory.coarse_kv[pool] = level
    return level


def named_blocks(decode: BiLevelDecode, count: int) -> tuple[int, ...] | None:
    """The blocks that ``relevance`` names itself, of ``count``; None where it judges instead.

    Raises ``ValueError`` for a number beyond the last block. A released selection may hold such, which say nothing.
    """
    relevance = decode.relevance
    if isinstance(relevance, ReleasedUnits):
        return tuple(number for number in relevance.blocks() if number < count)
    if isinstance(relevance, tuple) and relevance[-1] >= count:
        raise ValueError(
            f"relevance names block {relevance[-1]}, but in blocks of {decode.block_size} groups the video has "
            f"{count}: 0 to {count - 1}"
        )
    return relevance if isinstance(relevance, tuple) else None


def block_scores(
    model: Any, memory: VideoMemory, level: CoarseKV, blocks: Sequence[range], decode: BiLevelDecode, asked: Question
) -> np.ndarray:
    """A score per block: higher is more relevant."""
    relevance = decode.relevance
    parts = relevance.parts if isinstance(relevance, Fused) else decode.judges or (relevance,)
    return fused([_judged(part, model, memory, level, blocks, decode, asked) for part in parts])


def _judged(
    part: Any,
    model: Any,
    memory: VideoMemory,
    level: CoarseKV,
    blocks: Sequence[range],
    decode: BiLevelDecode,
    asked: Question,
) -> np.ndarray:
    """A score per block by one judge: a name, or a function."""
    part = word_scores if part == "words" else part
    if callable(part):
        scores = np.asarray(part(memory, asked.text), dtype=np.float64)
        if scores.shape == (len(memory.groups),):  # a block is as relevant as its best group
            scores = np.maximum.reduceat(scores, [block.start for block in blocks])
        if scores.shape != (len(blocks),) or not np.isfinite(scores).all():
            raise ValueError(
                f"relevance(memory, question) must give a finite number for each of the {len(blocks)} blocks of "
                f"{decode.block_size} groups, got {scores.tolist() if scores.size < 20 else f'shape {scores.shape}'}"
            )
        return scores
    if part == "siglip":
        raise ValueError(
            "relevance='siglip' needs what SigLIP saw of the video, which this memory was not told to keep: use "
            "encode(..., siglip=True), --siglip auto on the command line, or "
            "BiLevelDecode(relevance=SiglipRelevance().watch(memory, video))"
        )
    return attention_scores(model, memory.cache, level, blocks, asked.ids, rows=asked.own)


def second_look(
    model: Any, memory: VideoMemory, level: CoarseKV, blocks: Sequence[range], candidates: list[int], asked: Question
) -> np.ndarray:
    """A score per block by attention once more, the candidates and both ends read densely; the others come last."""
    dense_G = groups_of(blocks, (0, *candidates, len(blocks) - 1), len(memory.groups))
    with torch.inference_mode():
        level = closer(memory.cache, level, dense_G, model.model.language_model)
    scores = attention_scores(model, memory.cache, level, blocks, asked.ids, rows=asked.own)
    others = ~np.isin(np.arange(len(blocks)), candidates)
    scores[others] = np.minimum(scores[others], np.nextafter(scores[candidates].min(), -np.inf))
    return scores


def groups_of(blocks: Sequence[range], chosen: Iterable[int], groups: int) -> np.ndarray:
    """Mark the groups of some blocks: a bool for each group."""
    marked_G = np.zeros(groups, dtype=bool)
    for number in chosen:
        marked_G[list(blocks[number])] = True
    return marked_G


def best_blocks(scores: np.ndarray, top_k: int) -> list[int]:
    """The ``top_k`` best blocks between the first and the last; ties go to the earlier."""
    return sorted(range(1, len(scores) - 1), key=lambda n: (-scores[n], n))[:top_k]


def unit_scores(scores: np.ndarray) -> list[float]:
    """Scores from 0, the least relevant block, to 1, the most relevant one."""
    low, high = float(scores.min()), float(scores.max())
    if high == low:
        return [1.0] * len(scores)
    return [float((score - low) / (high - low)) for score in scores]
