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
from videoxl.memory.pooling import blocks_of, closer, interleave, make_coarse_kv, plan_interleave
from videoxl.memory.positions import Positions, positions_of
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.own_config import own_config_dict
from videoxl.model.videoxl import VideoXLForConditionalGeneration

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


@pytest.fixture(scope="module")
def rope_of_three():
    """Of a Qwen3-VL: positions in time, height and width, interleaved."""
    sizes = {"hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    text = {**sizes, "num_key_value_heads": HEADS, "head_dim": WIDTH, "vocab_size": 16}
    rotary = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    tower = {"hidden_size": 8, "intermediate_size": 8, "depth": 1, "num_heads": 2, "out_hidden_size": 24}
    vision = {**tower, "deepstack_visual_indexes": []}
    said = {"model_type": "qwen3_vl", "text_config": {**text, "rope_parameters": rotary}, "vision_config": vision}
    return VideoXLForConditionalGeneration(VideoXLConfig.from_dict(own_config_dict(said, None))).model.language_model


@settings(max_examples=30, deadline=None)
@given(
    prefix=st.integers(0, 4),
    times=st.lists(st.integers(1, 3), min_size=1, max_size=5),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    pool=st.integers(1, 5),
    data=st.data(),
)
def test_averages_of_three_dimensional_positions_are_the_rule(rope_of_three, prefix, times, grid, pool, data):
    """Averages of un-rotated keys stand at the mean position of those they were made from; the rest stays in place."""
    rope, count = rope_of_three, len(times)
    dense = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    ids = sequence(prefix, [(t, grid[0] * grid[1]) for t in times])
    places = positions_of(ids, [VISUAL], grid, 0)
    states, layout = unrotated(len(ids)), GroupLayout.from_ids(ids, prefix, VISUAL)
    cache = KVCache(LAYERS)
    for number, (keys, values) in enumerate(states):
        cache.update(rope.apply_rope(keys, places), values, number)
    cache = cache.placed(Positions.of(places))
    level = make_coarse_kv(cache, ids, layout, pool, rope=rope, devices=[CPU] * LAYERS, video_token_id=VISUAL)
    plan = plan_interleave(level, np.array(dense))
    near, mixed = closer(cache, level, np.array(dense), rope), interleave(cache, level, plan, rope)
    want_3S = plain_mix(places.float()[None, :, :, None], layout, dense, pool)[0, :, :, 0]
    assert torch.equal(mixed.positions.held_3S, want_3S)
    assert mixed.positions.next == near.positions.next == int(places.max()) + 1  # a question stays where it was
    assert torch.equal(near.positions.held_3S, want_3S[:, prefix:])
    for number, (keys, values) in enumerate(states):
        want = plain_mix(keys, layout, dense, pool)
        assert difference(mixed.layers[number].values, plain_mix(values, layout, dense, pool)) < 1e-6
        assert difference(mixed.layers[number].keys, rope.apply_rope(want, want_3S)) < 1e-5
        assert difference(near.keys[number], want[:, :, prefix:]) < 1e-5
        kept = torch.from_numpy(plan.dense_from)
        assert torch.equal(mixed.layers[number].keys[:, :, plan.dense_to], cache.layers[number].keys[:, :, kept])


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
