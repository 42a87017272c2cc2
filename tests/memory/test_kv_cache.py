"""The cache that forks, against transformers' own."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from tests.model.builders import noise, small_model
from videoxl.memory.generation_cache import GenerationCache
from videoxl.memory.kv_cache import KVCache, PreallocatedLayer
from videoxl.model.videoxl import CACHE

LAYERS, HEADS, WIDTH = 2, 2, 4


def tokens(number: int, batch: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of ``count`` new tokens for every layer."""

    def draw(layer: int, which: int) -> torch.Tensor:
        return noise(batch, HEADS, count, WIDTH, seed=number + 100 * layer + 1000 * which)

    return [(draw(layer, 0), draw(layer, 1)) for layer in range(LAYERS)]


def append(cache, new) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [cache.update(k, v, i) for i, (k, v) in enumerate(new)]


def contents(cache) -> list[torch.Tensor]:
    if cache.get_seq_length() == 0:
        return []
    return [t.clone() for layer in cache.layers for t in (layer.keys, layer.values)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def filled(count: int, *, reserve: int = 0, batch: int = 1) -> KVCache:
    cache = KVCache(LAYERS, reserve=reserve)
    append(cache, tokens(0, batch, count))
    return cache


def copy_of(cache) -> DynamicCache:
    other = DynamicCache()
    if cache.get_seq_length():
        append(other, [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers])
    return other


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 9), st.integers(1, 90)),
        st.tuples(st.just("fork"), st.integers(0, 9), st.integers(0, 120)),
        st.tuples(st.just("crop"), st.integers(0, 9), st.integers(1, 60)),
        st.tuples(st.just("repeat"), st.integers(0, 9), st.integers(2, 3)),
        st.tuples(st.just("select"), st.integers(0, 9), st.integers(0, 5)),
        st.tuples(st.just("reorder"), st.integers(0, 9), st.integers(0, 5)),
    ),
    max_size=12,
)


@given(operations, st.integers(0, 100))
@settings(max_examples=120, deadline=None)
def test_any_history_of_a_family_of_forks_equals_separate_caches(steps, reserve):
    """Every cache of the family is compared after every step, so none may see what another was given."""
    family = [(KVCache(LAYERS, reserve=reserve), DynamicCache())]
    for number, (what, who, amount) in enumerate(steps):
        ours, theirs = family[who % len(family)]
        length = ours.get_seq_length()
        batch = ours.layers[0].keys.shape[0] if length else 1
        if what == "fork":
            family.append((ours.fork(reserve=amount), copy_of(theirs)))
        elif what == "append":
            new = tokens(number, batch, amount)
            assert same([t for pair in append(ours, new) for t in pair], [t for p in append(theirs, new) for t in p])
        elif length > 1:
            order = torch.arange(batch).roll(amount)
            for cache in (GenerationCache(ours), theirs):
                if what == "crop":
                    cache.crop(-min(amount, length - 1))
                elif what == "repeat":
                    cache.batch_repeat_interleave(amount if batch < 8 else 1)
                elif what == "select":
                    cache.batch_select_indices(order[: max(1, batch - 1)])
                else:
                    cache.reorder_cache(order)
        for mine, other in family:
            assert mine.get_seq_length() == other.get_seq_length()
            assert same(contents(mine), contents(other))


def test_a_base_and_its_forks_can_all_grow():
    base = filled(10, reserve=40)
    before = contents(base)
    first, second = base.fork(), base.fork(reserve=30)
    for number, cache in enumerate((first, second, base, first, second)):
        append(cache, tokens(number + 1, 1, 3))
    assert [c.get_seq_length() for c in (base, first, second)] == [13, 16, 16]
    for cache in (base, first, second):
        assert same([t[..., :10, :] for t in contents(cache)], before)
    assert not torch.equal(first.layers[0].keys, second.layers[0].keys)


def test_tensors_handed_out_do_not_change_when_the_cache_grows():
    cache = filled(5, reserve=50)
    held = [layer.keys for layer in cache.layers]
    before = [t.clone() for t in held]
    append(cache, tokens(1, 1, 20))
    assert same(held, before)


def test_bytes_are_those_of_the_tokens_held():
    cache = filled(7, reserve=500)
    assert cache.nbytes == 2 * LAYERS * HEADS * WIDTH * 7 * 4
    assert cache.fork(reserve=90).nbytes == cache.nbytes
    assert KVCache(LAYERS).nbytes == 0


def test_room_reserved_is_made_once():
    cache = filled(4, reserve=64)
    place = cache.layers[0].keys.data_ptr()
    for number in range(60):
        append(cache, tokens(number, 1, 1))
    assert cache.get_seq_length() == 64
    assert cache.layers[0].keys.data_ptr() == place


def where(cache) -> int:
    return cache.layers[0].keys.data_ptr()


def test_forks_one_after_the_other_copy_nothing():
    base = filled(10, reserve=20)
    before = contents(base)
    for number in range(3):
        fork = base.fork()
        append(fork, tokens(number, 1, 5))
        assert where(fork) == where(base)
        del fork
    assert same(contents(base), before)


def test_a_fork_copies_while_another_holds_the_room():
    base = filled(10, reserve=20)
    first, second = base.fork(), base.fork()
    append(first, tokens(1, 1, 2))
    held = contents(first)
    append(second, tokens(2, 1, 2))
    append(base, tokens(3, 1, 4))
    assert where(first) not in (where(second), where(base))
    assert same(contents(first), held)


def test_a_fork_that_was_cropped_leaves_the_others_content():
    base = filled(10, reserve=20)
    before, fork = contents(base), base.fork()
    fork.truncate(4)
    append(fork, tokens(1, 1, 3))
    assert where(fork) != where(base)
    assert same(contents(base), before)


def test_threads_that_grow_forks_of_one_cache_do_not_meet():
    base = filled(8, reserve=2000)
    alone = [contents_of_growing(base, number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: contents_of_growing(base, number), range(4)))
    assert all(same(a, b) for a, b in zip(alone, together))


def contents_of_growing(base, number: int) -> list[torch.Tensor]:
    fork = base.fork()
    for step in range(40):
        append(fork, tokens(1000 * number + step, 1, 1))
    return contents(fork)


def test_a_failing_append_leaves_the_content():
    cache = filled(6, reserve=20)
    before = contents(cache)
    with pytest.raises(RuntimeError):
        cache.update(torch.zeros(1, HEADS + 1, 2, WIDTH), torch.zeros(1, HEADS + 1, 2, WIDTH), 0)
    assert same(contents(cache), before)


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"num_beams": 2, "repetition_penalty": 1.3}], ids=str)
def test_generation_from_a_fork_equals_generation_without_a_cache(how):
    model, ids = small_model(), torch.tensor([[5, 9, 200, 31, 7, 77, 4]])
    how = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **how}
    base = KVCache(2)
    with torch.no_grad():
        model.model.language_model(input_ids=ids[:, :4], past_key_values=base)
    before = contents(base)
    from_fork = model.generate(ids, **{CACHE: GenerationCache(base.fork())}, **how)
    assert torch.equal(from_fork, model.generate(ids, **how))
    assert same(contents(base), before)


@pytest.fixture
def threads_that_switch_all_the_time():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_that_switch_all_the_time")
def test_forks_that_come_and_go_in_threads_keep_what_they_wrote():
    """Who has claimed the spare room must be known while others join and leave."""

    def grow(base: PreallocatedLayer, number: int) -> bool:
        layer = base.fork(24)
        written = [torch.full((1, 1, 1, 2), 10.0 * number + step) for step in range(8)]
        for token in written:
            layer.update(token, token)
        return torch.equal(layer.keys[..., 4:, :], torch.cat(written, dim=-2))

    with ThreadPoolExecutor(6) as pool:
        for _ in range(150):
            base = PreallocatedLayer(24)
            base.update(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2))
            assert all(pool.map(grow, [base] * 24, range(24)))
