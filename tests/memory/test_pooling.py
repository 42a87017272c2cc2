"""The two levels of a memory, against the rule stated group by group."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.builders import difference, noise, small_model
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import GroupLayout
from videoxl.memory.pooling import blocks_of, interleave, make_coarse_kv, plan_interleave

VISUAL, LAYERS, HEADS, WIDTH = 7, 2, 2, 12
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rope():
    return small_model().model.language_model


def sequence(prefix: int, sizes: list[tuple[int, int]]) -> list[int]:
    ids = list(range(100, 100 + prefix))
    for number, (times, visuals) in enumerate(sizes):
        ids += [200 + 10 * number + t for t in range(times)] + [VISUAL] * visuals
    return ids


def unrotated(length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (noise(1, HEADS, length, WIDTH, seed=n), noise(1, HEADS, length, WIDTH, seed=50 + n)) for n in range(LAYERS)
    ]


def cache_of(states, rope) -> KVCache:
    cache = KVCache(LAYERS)
    for number, (keys, values) in enumerate(states):
        cache.update(rope.apply_rope(keys, torch.arange(keys.shape[2])), values, number)
    return cache


def plain_mix(states_1KSE: torch.Tensor, layout: GroupLayout, dense: list[bool], pool: int) -> torch.Tensor:
    """SPEC 3.7, one group after the other, on states that carry no position."""
    parts = [states_1KSE[:, :, : layout.prefix_length]]
    for start, visual, end, whole in zip(layout.starts_G, layout.visuals_G, layout.ends, dense):
        if whole:
            parts.append(states_1KSE[:, :, start:end])
            continue
        parts.append(states_1KSE[:, :, start:visual])
        for first in range(visual, end - pool + 1, pool):
            parts.append(states_1KSE[:, :, first : first + pool].mean(2, keepdim=True))
    return torch.cat(parts, dim=2)


@settings(max_examples=30, deadline=None)
@given(
    prefix=st.integers(0, 4),
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=6),
    pool=st.integers(1, 5),
    data=st.data(),
)
def test_a_mixed_cache_is_the_rule(rope, prefix, sizes, pool, data):
    dense = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    ids = sequence(prefix, sizes)
    states = unrotated(len(ids))
    cache, layout = cache_of(states, rope), GroupLayout.from_ids(ids, prefix, VISUAL)
    level = make_coarse_kv(cache, ids, layout, pool, rope=rope, devices=[CPU] * LAYERS, video_token_id=VISUAL)
    assert len(level) == level.offsets[-1] == sum(t + v // pool for t, v in sizes)
    plan = plan_interleave(level, np.array(dense))
    mixed = interleave(cache, level, plan, rope)
    marks = torch.tensor(ids)[None, None, :, None].expand(1, 1, -1, 1).double()
    assert list(plan.ids) == plain_mix(marks, layout, dense, pool)[0, 0, :, 0].tolist()
    for layer, (keys, values) in zip(mixed.layers, states):
        want = plain_mix(keys, layout, dense, pool)
        assert difference(layer.values, plain_mix(values, layout, dense, pool)) < 1e-6
        assert difference(layer.keys, rope.apply_rope(want, torch.arange(len(plan)))) < 1e-5  # measured: 1.7e-7


def test_pooling_in_pieces_is_pooling(rope, monkeypatch):
    ids = sequence(3, [(2, 8)] * 7)
    cache, layout = cache_of(unrotated(len(ids)), rope), GroupLayout.from_ids(ids, 3, VISUAL)

    def pooled():
        return make_coarse_kv(cache, ids, layout, 4, rope=rope, devices=[CPU] * LAYERS, video_token_id=VISUAL)

    whole = pooled()
    monkeypatch.setattr("videoxl.memory.pooling.TOKENS_AT_ONCE", 12)
    pieces = pooled()
    assert all(torch.equal(a, b) for a, b in zip(whole.keys + whole.values, pieces.keys + pieces.values))
    assert whole.nbytes == 2 * LAYERS * HEADS * len(whole) * WIDTH * 4


@given(st.integers(0, 30), st.integers(1, 8))
def test_blocks_cover_all_groups_in_order(groups, size):
    blocks = blocks_of(groups, size)
    assert [g for block in blocks for g in block] == list(range(groups))
    assert all(len(block) == size for block in blocks[:-1])
