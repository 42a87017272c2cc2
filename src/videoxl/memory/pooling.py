"""Coarse keys and values of a memory, and caches interleaved from coarse and dense ones (SPEC 3.7).

The *dense* keys and values are the cache as it was read. In the *coarse* ones every group keeps its timestamp, and its
visual tokens are averaged, ``pool`` tokens into one: keys before rotary embedding, so that an average means something,
and values. A question reads some blocks of groups densely and the others coarsely, at contiguous positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from videoxl.memory.kv_cache import KVCache, PreallocatedLayer, Rope, Tier, Which
from videoxl.memory.layout import GroupLayout
from videoxl.memory.positions import Positions
from videoxl.memory.question_room import QuestionRoom

TOKENS_AT_ONCE = 1 << 16
"""Tokens whose keys are un-rotated at once; it bounds the fp32 copies."""


def blocks_of(groups: int, block_size: int) -> list[range]:
    """List the groups of each block: ``block_size`` in a row; the last block may be short."""
    return [range(first, min(first + block_size, groups)) for first in range(0, groups, block_size)]


@dataclass(frozen=True)
class CoarseKV:
    """Averaged keys and values of one memory, without its prefix. Keys are un-rotated."""

    pool: int
    token_ids: Sequence[int]
    """Ids of the memory it was made from."""
    layout: GroupLayout
    offsets: np.ndarray
    """Where each group begins, ``[G + 1]``."""
    ids: tuple[int, ...]
    keys: Sequence[torch.Tensor]
    """Per layer ``[1, K, M, E]``."""
    values: Sequence[torch.Tensor]
    positions: Positions | None = None
    """Of every entry, where positions have three dimensions: an average has the mean of those it was made from. None:
    entries take the places they get in a question's cache."""
    dense_G: np.ndarray | None = None
    """Groups whose entries are tokens as they were read, not averages. None: no group's are."""
    room: QuestionRoom = field(default_factory=QuestionRoom, repr=False, compare=False)
    """Where questions mix them with dense ones, on a GPU."""

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def tiers(self) -> Iterator[tuple[Tier, int]]:
        """Yield for each part where it is and its bytes there, with the room that is kept for questions."""
        for states in (self.keys, self.values):
            if hasattr(states, "tiers"):  # in a file, or partly
                yield from states.tiers()
            else:
                for t in states:
                    yield ("host" if t.device.type == "cpu" else "device"), t.numel() * t.element_size()
        yield "device", self.room.nbytes

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class _AveragePlan:
    """Which tokens of a sequence go to which coarse entries."""

    offsets: np.ndarray
    time_from: np.ndarray
    time_to: np.ndarray
    visual_from: np.ndarray
    """The tokens averaged into each entry, ``[entries, pool]``."""
    visual_to: np.ndarray

    @property
    def index(self) -> np.ndarray:
        """The tokens averaged into all entries, timestamps included: ``[entries, pool]``, -1 for none."""
        pool = self.visual_from.shape[1]
        index = np.full((int(self.offsets[-1]), pool), -1, dtype=np.int64)
        index[self.time_to, 0] = self.time_from
        index[self.visual_to] = self.visual_from
        return index


def _plan_averages(layout: GroupLayout, pool: int) -> _AveragePlan:
    times = layout.visuals_G - layout.starts_G
    entries = (layout.ends - layout.visuals_G) // pool  # a rest shorter than ``pool`` is dropped
    offsets = np.concatenate([[0], np.cumsum(times + entries)])
    empty = [np.zeros(0, dtype=np.int64)]
    return _AveragePlan(
        offsets=offsets,
        time_from=np.concatenate(empty + [np.arange(s, v) for s, v in zip(layout.starts_G, layout.visuals_G)]),
        time_to=np.concatenate(empty + [np.arange(o, o + t) for o, t in zip(offsets, times)]),
        visual_from=np.concatenate(empty + [np.arange(v, v + n * pool) for v, n in zip(layout.visuals_G, entries)])
        .astype(np.int64)
        .reshape(-1, pool),
        visual_to=np.concatenate(empty + [np.arange(o + t, o + t + n) for o, t, n in zip(offsets, times, entries)]),
    )


def make_coarse_kv(
    cache: KVCache,
    token_ids: Sequence[int],
    layout: GroupLayout,
    pool: int,
    *,
    rope: Rope,
    devices: Sequence[torch.device],
    video_token_id: int,
) -> CoarseKV:
    """Average a whole memory, layer by layer; ``devices``: where each layer's result is computed and kept."""
    keys: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    coarse = coarse_kv_of(
        token_ids, layout, pool, keys, values, video_token_id=video_token_id, positions=cache.positions
    )
    plan = _plan_averages(layout, pool)
    if lies_on_one_gpu(cache, devices):
        first, index = cache.layers[0], _index(plan.index, devices[0])
        _, heads, _, width = first.buffer().keys.shape
        shape = (len(devices), heads, len(coarse), width)
        sides: tuple[tuple[list[torch.Tensor], Which], ...] = ((keys, "keys"), (values, "values"))
        for made, which in sides:
            out = torch.empty(shape, dtype=first.dtype, device=devices[0])
            held = None if cache.positions is None else cache.positions.held_3S
            _gather(cache, which, (), index, out, rope, unrotate=which == "keys", positions=held)
            made.extend(out[:, None].unbind())
        return coarse
    for layer, device in zip(cache.layers, devices):
        keys.append(_average(layer, "keys", plan, len(coarse), device, rope, cache.positions))
        values.append(_average(layer, "values", plan, len(coarse), device, None))
    return coarse


def lies_on_one_gpu(cache: KVCache, devices: Sequence[torch.device]) -> bool:
    """Whether all layers are on the one GPU that computes with them: then they are gathered from at once."""
    here = {layer.device for layer in cache.layers} | set(devices)
    return len(here) == 1 and next(iter(here)).type == "cuda" and all(t.tier[0] == "device" for t in cache.layers)


def _gather(
    cache: KVCache,
    which: Which,
    coarse: Sequence[torch.Tensor],
    index: torch.Tensor,
    out_XKME: torch.Tensor,
    rope: Rope,
    **how: Any,
) -> None:
    """:meth:`Rope.gather_layers` of all layers at once; of layers in eight bits one at a time, since it is unpacked."""
    layers = cache.layers
    step = 1 if any(layer.is_packed for layer in layers) else len(layers)
    for first in range(0, len(layers), step):
        part = slice(first, first + step)
        dense = [getattr(layer, which) for layer in layers[part]]
        rope.gather_layers(dense, list(coarse[part]), index, out_XKME[part], **how)


def coarse_kv_of(
    token_ids: Sequence[int],
    layout: GroupLayout,
    pool: int,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    *,
    video_token_id: int,
    positions: Positions | None = None,
) -> CoarseKV:
    """Describe the coarse keys and values of a memory; the sequences may be filled later.

    ``positions``: of the memory's tokens, where they are not the indices.
    """
    plan = _plan_averages(layout, pool)
    ids = np.full(int(plan.offsets[-1]), video_token_id)
    ids[plan.time_to] = np.asarray(token_ids)[plan.time_from]
    placed = None if positions is None else _mean_positions(positions, plan)
    return CoarseKV(pool, token_ids, layout, plan.offsets, tuple(ids.tolist()), keys, values, placed)


def _mean_positions(positions: Positions, plan: _AveragePlan) -> Positions:
    """Of every coarse entry; what follows the video has the position it has behind the whole of it."""
    held = positions.held_3S.float()
    out = torch.empty((3, int(plan.offsets[-1])))
    out[:, plan.time_to] = held[:, plan.time_from]
    out[:, plan.visual_to] = held[:, plan.visual_from].mean(-1)
    return Positions(out, positions.next)


def _average(
    layer: PreallocatedLayer,
    which: Which,
    plan: _AveragePlan,
    length: int,
    device: torch.device,
    rope: Rope | None,
    positions: Positions | None = None,
) -> torch.Tensor:
    """Average one layer's keys (un-rotated by ``rope``) or values: ``[1, K, length, E]``."""
    times = take(layer, which, _index(plan.time_from, device), device, rope, positions)
    out = torch.empty((*times.shape[:2], length, times.shape[3]), dtype=layer.dtype, device=device)
    out[:, :, _index(plan.time_to, device)] = times.to(out.dtype)
    pool = plan.visual_from.shape[1]
    step = max(1, TOKENS_AT_ONCE // pool)
    for first in range(0, len(plan.visual_to), step):
        runs, to = plan.visual_from[first : first + step], plan.visual_to[first : first + step]
        dense = take(layer, which, _index(runs.reshape(-1), device), device, rope, positions)
        out[:, :, _index(to, device)] = dense.reshape(*dense.shape[:2], -1, pool, dense.shape[3]).mean(3).to(out.dtype)
    return out


def take(
    layer: PreallocatedLayer,
    which: Which,
    index: torch.Tensor,
    device: torch.device,
    rope: Rope | None,
    positions: Positions | None = None,
) -> torch.Tensor:
    """Select keys or values of some tokens, in fp32 on ``device``; keys un-rotated by ``rope``.

    ``positions``: of all tokens, where they are not the indices. Of a layer that is still in a file, only the blocks
    that hold these tokens are read.
    """
    chosen = layer.select(which, index).to(device).float()
    if rope is None:
        return chosen
    index = index.to(device)
    return rope.inverse_rope(chosen, index if positions is None else positions.at(index))


def _index(positions: np.ndarray, device: torch.device) -> torch.Tensor:
    index = torch.from_numpy(np.ascontiguousarray(positions, dtype=np.int64))
    if device.type == "cuda":  # from pinned memory the host need not wait for what was queued before
        return index.pin_memory().to(device, non_blocking=True)
    return index.to(device)


@dataclass(frozen=True)
class InterleavePlan:
    """Which dense and which coarse tokens an interleaved cache consists of."""

    ids: tuple[int, ...]
    dense_from: np.ndarray
    """Positions in the dense cache."""
    dense_to: np.ndarray
    """Their positions in the interleaved cache."""
    coarse_from: np.ndarray
    coarse_to: np.ndarray
    _on: dict[torch.device, InterleaveIndex] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def index(self) -> np.ndarray:
        """Where every token comes from ``[tokens, 1]``: a dense position, or ``-2 - n`` for coarse token ``n``."""
        index = np.empty((len(self), 1), dtype=np.int64)
        index[self.dense_to, 0] = self.dense_from
        index[self.coarse_to, 0] = -2 - self.coarse_from
        return index

    def on(self, device: torch.device) -> InterleaveIndex:
        """Return the positions as tensors; they are copied to a device once, for all its layers."""
        if device not in self._on:
            arrays = (self.dense_from, self.dense_to, self.coarse_from, self.coarse_to)
            self._on[device] = InterleaveIndex(*(_index(array, device) for array in arrays))
        return self._on[device]


class InterleaveIndex(NamedTuple):
    """The positions of a :class:`InterleavePlan` on a device."""

    dense_from: torch.Tensor
    dense_to: torch.Tensor
    coarse_from: torch.Tensor
    coarse_to: torch.Tensor


def plan_interleave(coarse: CoarseKV, dense_G: np.ndarray) -> InterleavePlan:
    """Plan the prefix, then every group in order: dense where the bool ``dense_G`` says so, else coarse."""
    layout = coarse.layout
    sizes = np.where(dense_G, layout.ends - layout.starts_G, np.diff(coarse.offsets))
    to = layout.prefix_length + np.concatenate([[0], np.cumsum(sizes)])
    prefix = np.arange(layout.prefix_length)
    dense, sparse = np.flatnonzero(dense_G), np.flatnonzero(~dense_G)
    dense_from = np.concatenate([prefix, *(np.arange(layout.starts_G[g], layout.ends[g]) for g in dense)])
    dense_to = np.concatenate([prefix, *(np.arange(to[g], to[g + 1]) for g in dense)])
    none = np.zeros(0, dtype=np.int64)
    coarse_from = np.concatenate([none, *(np.arange(coarse.offsets[g], coarse.offsets[g + 1]) for g in sparse)])
    coarse_to = np.concatenate([none, *(np.arange(to[g], to[g + 1]) for g in sparse)])
    ids = np.empty(int(to[-1]), dtype=np.int64)
    ids[dense_to.astype(np.int64)] = np.asarray(coarse.token_ids)[dense_from.astype(np.int64)]
    ids[coarse_to] = np.asarray(coarse.ids)[coarse_from]
    return InterleavePlan(tuple(ids.tolist()), dense_from, dense_to, coarse_from, coarse_to)


def interleave(cache: KVCache, coarse: CoarseKV, plan: InterleavePlan, rope: Rope, *, reserve: int = 0) -> KVCache:
    """Make a cache of dense and coarse tokens, keys rotated to the positions 0, 1, 2 ...; ``reserve``: final capacity.

    Each layer takes two gathers and two scatters, whatever the number of groups; on a GPU all layers take two gathers.
    Where positions have three dimensions, dense tokens keep theirs and averages have the means of theirs.
    """
    if coarse.positions is not None:
        return _interleave_where_it_is(cache, coarse, coarse.positions, plan, rope, reserve)
    if lies_on_one_gpu(cache, [keys.device for keys in coarse.keys]):
        return _interleave_at_once(cache, coarse, plan, rope, reserve)
    layers = []
    for layer, keys, values in zip(cache.layers, coarse.keys, coarse.values):
        device, made = keys.device, PreallocatedLayer(reserve)
        chosen = plan.on(layer.device).dense_from  # on the device of the dense cache, which may be the host
        unrotated = _scatter(take(layer, "keys", chosen, device, rope), keys, plan)
        rotated = rope.apply_rope(unrotated, torch.arange(len(plan), device=device)).to(keys.dtype)
        made.update(rotated, _scatter(take(layer, "values", chosen, device, None), values, plan).to(values.dtype))
        layers.append(made)
    return KVCache(layers)


def _interleave_where_it_is(
    cache: KVCache, coarse: CoarseKV, positions: Positions, plan: InterleavePlan, rope: Rope, reserve: int
) -> KVCache:
    """Every token stays at its position in the video, so dense ones need no rotation and a question no other place."""
    held_3M, layers = positions.held_3S, []
    for layer, keys, values in zip(cache.layers, coarse.keys, coarse.values):
        device, made = keys.device, PreallocatedLayer(reserve)
        chosen = plan.on(layer.device).dense_from
        rotated = rope.apply_rope(keys, held_3M.to(device))
        made.update(
            _scatter(take(layer, "keys", chosen, device, None), rotated, plan).to(keys.dtype),
            _scatter(take(layer, "values", chosen, device, None), values, plan).to(values.dtype),
        )
        layers.append(made)
    return KVCache(layers).placed(Positions(_placed(cache, plan, positions), positions.next))


def _interleave_at_once(cache: KVCache, coarse: CoarseKV, plan: InterleavePlan, rope: Rope, reserve: int) -> KVCache:
    index, length = _index(plan.index, cache.layers[0].device), len(plan)
    mixed, states = coarse.room.take(coarse.keys[0], len(coarse.keys), length, max(reserve, length))
    places = states.keys_X1KSE[:, 0, :, :length], states.values_X1KSE[:, 0, :, :length]
    _gather(cache, "keys", coarse.keys, index, places[0], rope, unrotate=True, rotate_from=0)
    _gather(cache, "values", coarse.values, index, places[1], rope)
    return mixed


def closer(cache: KVCache, coarse: CoarseKV, dense_G: np.ndarray, rope: Rope) -> CoarseKV:
    """A coarse level in which the groups of the bool ``dense_G`` are dense, for a second look at them."""
    plan, begin, layout = plan_interleave(coarse, dense_G), coarse.layout.prefix_length, coarse.layout
    keys, values = [], []
    for layer, pooled_keys, pooled_values in zip(cache.layers, coarse.keys, coarse.values):
        device, chosen = pooled_keys.device, plan.on(layer.device).dense_from
        unrotated = _scatter(take(layer, "keys", chosen, device, rope, cache.positions), pooled_keys, plan)
        mixed = _scatter(take(layer, "values", chosen, device, None), pooled_values, plan)
        keys.append(unrotated[:, :, begin:].to(pooled_keys.dtype))
        values.append(mixed[:, :, begin:].to(pooled_values.dtype))
    sizes = np.where(dense_G, layout.ends - layout.starts_G, np.diff(coarse.offsets))
    placed = None
    if coarse.positions is not None:
        held_3S = _placed(cache, plan, coarse.positions)[:, begin:]
        placed = Positions(held_3S, coarse.positions.next)
    return replace(
        coarse,
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        ids=plan.ids[begin:],
        keys=keys,
        values=values,
        positions=placed,
        dense_G=dense_G,
    )


def _placed(cache: KVCache, plan: InterleavePlan, coarse: Positions) -> torch.Tensor:
    """Positions ``[3, tokens]`` of dense and coarse tokens, each where it is in the video."""
    placed = torch.empty((3, len(plan)))
    placed[:, plan.dense_to] = cache.positions_at(torch.from_numpy(plan.dense_from)).float()
    placed[:, plan.coarse_to] = coarse.held_3S[:, plan.coarse_from]
    return placed


def _scatter(dense: torch.Tensor, coarse: torch.Tensor, plan: InterleavePlan) -> torch.Tensor:
    """Put dense and coarse states in their places, in fp32."""
    index = plan.on(coarse.device)
    out = torch.empty((*dense.shape[:2], len(plan), dense.shape[3]), dtype=torch.float32, device=coarse.device)
    out.index_copy_(2, index.dense_to, dense)
    return out.index_copy_(2, index.coarse_to, coarse.index_select(2, index.coarse_from).float())
