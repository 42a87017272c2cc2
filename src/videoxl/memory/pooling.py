"""Two levels of a video memory, and caches mixed from both (SPEC 3.7).

The *dense* level is the cache as it was read. In the *pooled* one every group keeps its timestamp, and its visual
tokens are averaged in runs of ``pool``: keys before rotary embedding, so that an average means something, and values.
A question reads some blocks of groups densely and the rest pooled, at contiguous positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from videoxl.memory.kv_cache import GrowingLayer, KVCache, Tier, Which
from videoxl.memory.layout import GroupLayout

Rotate = Callable[..., torch.Tensor]
"""``rotate(states_BKLE, positions_L, back=False)`` of the language model: rotary embedding in fp32."""
TOKENS_AT_ONCE = 1 << 16
"""Tokens whose keys are un-rotated in one go, which bounds the fp32 copies."""


def blocks_of(groups: int, block_size: int) -> list[range]:
    """Groups of each block: ``block_size`` in a row, the last block may be short."""
    return [range(first, min(first + block_size, groups)) for first in range(0, groups, block_size)]


@dataclass(frozen=True)
class PooledLevel:
    """The pooled level of one memory, without its prefix. Keys are un-rotated."""

    pool: int
    token_ids: Sequence[int]
    """Ids of the memory it was made from: the very object, so that a memory that changed is told apart."""
    layout: GroupLayout
    offsets: np.ndarray
    """``[G + 1]``: where each group begins."""
    ids: tuple[int, ...]
    keys: Sequence[torch.Tensor]
    """Per layer ``[1, K, M, E]``."""
    values: Sequence[torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def tiers(self) -> Iterator[tuple[Tier, int]]:
        """Where its parts are, and their bytes there."""
        for states in (self.keys, self.values):
            if hasattr(states, "tiers"):  # in a file, or partly
                yield from states.tiers()
            else:
                for t in states:
                    yield ("host" if t.device.type == "cpu" else "device"), t.numel() * t.element_size()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class _PoolPlan:
    """Which tokens of a sequence go where in its pooled level."""

    offsets: np.ndarray
    time_from: np.ndarray
    time_to: np.ndarray
    visual_from: np.ndarray
    """``[entries, pool]``: the tokens averaged into each entry."""
    visual_to: np.ndarray


def _plan_pooling(layout: GroupLayout, pool: int) -> _PoolPlan:
    times = layout.visuals_G - layout.starts_G
    entries = (layout.ends - layout.visuals_G) // pool  # what fills no run is dropped
    offsets = np.concatenate([[0], np.cumsum(times + entries)])
    empty = [np.zeros(0, dtype=np.int64)]
    return _PoolPlan(
        offsets=offsets,
        time_from=np.concatenate(empty + [np.arange(s, v) for s, v in zip(layout.starts_G, layout.visuals_G)]),
        time_to=np.concatenate(empty + [np.arange(o, o + t) for o, t in zip(offsets, times)]),
        visual_from=np.concatenate(empty + [np.arange(v, v + n * pool) for v, n in zip(layout.visuals_G, entries)])
        .astype(np.int64)
        .reshape(-1, pool),
        visual_to=np.concatenate(empty + [np.arange(o + t, o + t + n) for o, t, n in zip(offsets, times, entries)]),
    )


def make_pooled(
    cache: KVCache,
    token_ids: Sequence[int],
    layout: GroupLayout,
    pool: int,
    *,
    rotate: Rotate,
    devices: Sequence[torch.device],
    video_token_id: int,
) -> PooledLevel:
    """Pool a whole memory, layer by layer; ``devices`` says where each layer's level is made and kept."""
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    level = level_of(token_ids, layout, pool, keys, values, video_token_id=video_token_id)
    plan = _plan_pooling(layout, pool)
    for layer, device in zip(cache.layers, devices):
        keys.append(_pool(layer, "keys", plan, len(level), device, rotate))
        values.append(_pool(layer, "values", plan, len(level), device, None))
    return level


def level_of(
    token_ids: Sequence[int],
    layout: GroupLayout,
    pool: int,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    *,
    video_token_id: int,
) -> PooledLevel:
    """The pooled level of a memory with these keys and values, which may come later."""
    plan = _plan_pooling(layout, pool)
    ids = np.full(int(plan.offsets[-1]), video_token_id)
    ids[plan.time_to] = np.asarray(token_ids)[plan.time_from]
    return PooledLevel(pool, token_ids, layout, plan.offsets, tuple(ids.tolist()), keys, values)


def _pool(
    layer: GrowingLayer, which: Which, plan: _PoolPlan, length: int, device: torch.device, rotate: Rotate | None
) -> torch.Tensor:
    """One layer's keys (un-rotated by ``rotate``) or values, pooled: ``[1, K, length, E]``."""
    times = take(layer, which, _index(plan.time_from, device), device, rotate)
    out = torch.empty((*times.shape[:2], length, times.shape[3]), dtype=layer.dtype, device=device)
    out[:, :, _index(plan.time_to, device)] = times.to(out.dtype)
    pool = plan.visual_from.shape[1]
    step = max(1, TOKENS_AT_ONCE // pool)
    for first in range(0, len(plan.visual_to), step):
        runs, to = plan.visual_from[first : first + step], plan.visual_to[first : first + step]
        dense = take(layer, which, _index(runs.reshape(-1), device), device, rotate)
        out[:, :, _index(to, device)] = dense.unflatten(2, (-1, pool)).mean(3).to(out.dtype)
    return out


def take(
    layer: GrowingLayer, which: Which, positions: torch.Tensor, device: torch.device, rotate: Rotate | None
) -> torch.Tensor:
    """Keys or values of some tokens in fp32 on ``device``; keys un-rotated by ``rotate``. A file is read in parts."""
    chosen = layer.select(which, positions).to(device).float()
    return chosen if rotate is None else rotate(chosen, positions.to(device), back=True)


def _index(positions: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(positions, dtype=np.int64)).to(device)


@dataclass(frozen=True)
class MixPlan:
    """Which tokens of both levels a mixed cache consists of."""

    ids: tuple[int, ...]
    dense_from: np.ndarray
    """Positions in the dense level."""
    dense_to: np.ndarray
    """And where they go."""
    pooled_from: np.ndarray
    pooled_to: np.ndarray
    _on: dict[torch.device, MixIndex] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def on(self, device: torch.device) -> MixIndex:
        """The positions as tensors; copied to a device once, for all its layers."""
        if device not in self._on:
            arrays = (self.dense_from, self.dense_to, self.pooled_from, self.pooled_to)
            self._on[device] = MixIndex(*(_index(array, device) for array in arrays))
        return self._on[device]


class MixIndex(NamedTuple):
    """The positions of a :class:`MixPlan` on a device."""

    dense_from: torch.Tensor
    dense_to: torch.Tensor
    pooled_from: torch.Tensor
    pooled_to: torch.Tensor


def plan_mix(level: PooledLevel, dense_G: np.ndarray) -> MixPlan:
    """The prefix, then every group in order: densely where the bool ``dense_G`` says so, else pooled."""
    layout = level.layout
    sizes = np.where(dense_G, layout.ends - layout.starts_G, np.diff(level.offsets))
    to = layout.prefix_length + np.concatenate([[0], np.cumsum(sizes)])
    prefix = np.arange(layout.prefix_length)
    dense, pooled = np.flatnonzero(dense_G), np.flatnonzero(~dense_G)
    dense_from = np.concatenate([prefix, *(np.arange(layout.starts_G[g], layout.ends[g]) for g in dense)])
    dense_to = np.concatenate([prefix, *(np.arange(to[g], to[g + 1]) for g in dense)])
    none = np.zeros(0, dtype=np.int64)
    pooled_from = np.concatenate([none, *(np.arange(level.offsets[g], level.offsets[g + 1]) for g in pooled)])
    pooled_to = np.concatenate([none, *(np.arange(to[g], to[g + 1]) for g in pooled)])
    ids = np.empty(int(to[-1]), dtype=np.int64)
    ids[dense_to.astype(np.int64)] = np.asarray(level.token_ids)[dense_from.astype(np.int64)]
    ids[pooled_to] = np.asarray(level.ids)[pooled_from]
    return MixPlan(tuple(ids.tolist()), dense_from, dense_to, pooled_from, pooled_to)


def mix(cache: KVCache, level: PooledLevel, plan: MixPlan, rotate: Rotate, *, reserve: int = 0) -> KVCache:
    """A cache of both levels, keys rotated to the positions 0, 1, 2 ...; ``reserve``: tokens of room in the end.

    Per layer one gather and one scatter per level, whatever the number of groups.
    """
    mixed = KVCache(0)
    for layer, keys, values in zip(cache.layers, level.keys, level.values):
        device, made = keys.device, GrowingLayer()
        chosen = plan.on(layer.device).dense_from  # where the dense level is: it may be in host memory
        made.reserved = reserve
        unrotated = _merge(take(layer, "keys", chosen, device, rotate), keys, plan)
        rotated = rotate(unrotated, torch.arange(len(plan), device=device)).to(keys.dtype)
        made.update(rotated, _merge(take(layer, "values", chosen, device, None), values, plan).to(values.dtype))
        mixed.layers.append(made)
    return mixed


def _merge(dense: torch.Tensor, pooled: torch.Tensor, plan: MixPlan) -> torch.Tensor:
    """Put both in their places, in fp32."""
    index = plan.on(pooled.device)
    out = torch.empty((*dense.shape[:2], len(plan), dense.shape[3]), dtype=torch.float32, device=pooled.device)
    out.index_copy_(2, index.dense_to, dense)
    return out.index_copy_(2, index.pooled_to, pooled.index_select(2, index.pooled_from).float())
