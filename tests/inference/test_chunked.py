"""Chunked prefill: tile by tile is the whole mask, whatever the sizes, on the device and offloaded."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.builders import difference, noise, small_model
from tests.model.random_tiny import tiny_tokenizer
from videoxl.config import ChunkedPrefill
from videoxl.inference.prefill import chunked
from videoxl.inference.prefill.chunked import MaskPrefiller, StreamingPrefiller, chunked_prefiller
from videoxl.inference.prefill.full import FullPrefiller
from videoxl.inference.prompt import VisualSpan, span_for
from videoxl.memory.host_cache import HostLayer, HostStore
from videoxl.memory.kv_cache import KVCache
from videoxl.model import attention

TOLERANCE = 1e-5  # measured: 9e-7
tokenizer = tiny_tokenizer()


def tokenize(text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.fixture(scope="module")
def model():
    """Three layers, two key/value heads."""
    return small_model(text={"num_hidden_layers": 3, "num_key_value_heads": 2, "max_position_embeddings": 8192})


def video(model, groups: int, *, step: float = 7.3, first: int = 0) -> tuple[VisualSpan, torch.Tensor]:
    """Groups ``first ..`` of a video whose timestamps have one to four digits."""
    times = [step * frame for frame in range(4 * first, 4 * (first + groups))]
    span = span_for(model.config, times, tokenize)
    per_group = model.config.tokens_per_group
    tokens = noise((first + groups) * per_group, model.config.text_config.hidden_size, seed=5)
    return span, tokens[first * per_group :]


@torch.inference_mode()
def filled(prefiller, *parts) -> KVCache:
    for part in parts:
        prefiller.add(*part)
    prefiller.finish()
    return prefiller.cache


def parts_of(span: VisualSpan, tokens: torch.Tensor, cuts: list[int], per_group: int):
    """The span cut before the given groups."""
    borders = [0, *sorted(cuts), len(span.groups)]
    for first, last in pairwise(borders):
        if first < last:
            begin, end = span.groups[first].token_start, span.groups[last - 1].token_end
            groups = tuple(
                type(g)(g.start_s, g.end_s, g.token_start - begin, g.visual_start - begin, g.token_end - begin)
                for g in span.groups[first:last]
            )
            yield VisualSpan(span.ids[begin:end], groups), tokens[first * per_group : last * per_group]


def worst(cache: KVCache, other: KVCache) -> float:
    pairs = [(a, b) for x, y in zip(cache.layers, other.layers) for a, b in ((x.keys, y.keys), (x.values, y.values))]
    return max(difference(a, b) for a, b in pairs)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 17),
    prefix=st.integers(0, 9),
    block=st.integers(1, 6),
    previous=st.integers(0, 4),
    tile=st.integers(1, 20),
    step=st.sampled_from([0.3, 7.3, 260.0]),
    offload=st.booleans(),
    cuts=st.lists(st.integers(1, 16), max_size=3, unique=True),
)
def test_streaming_is_the_mask(model, groups, prefix, block, previous, tile, step, offload, cuts):
    strategy = ChunkedPrefill.from_blocks(block, previous)
    span, tokens = video(model, groups, step=step)
    prefix_ids = list(range(40, 40 + prefix))
    want = MaskPrefiller(model, prefix_ids, strategy)
    filled(want, (span, tokens))
    streaming = ChunkedPrefill.from_blocks(block, previous, offload=offload)
    got = StreamingPrefiller(model, prefix_ids, streaming, tile_groups=tile)
    filled(got, *parts_of(span, tokens, [c for c in cuts if c < groups], model.config.tokens_per_group))
    assert got.ids == want.ids == [*prefix_ids, *span.ids]
    assert got.cache.get_seq_length() == len(got.ids)
    assert worst(got.cache, want.cache) < TOLERANCE


@settings(max_examples=20, deadline=None)
@given(
    groups=st.integers(2, 14),
    cut=st.integers(1, 13),
    block=st.integers(1, 4),
    previous=st.integers(0, 3),
    before=st.booleans(),
    after=st.booleans(),
    mode=st.sampled_from(["streaming", "mask"]),
)
def test_a_video_read_in_two_goes_is_one_video(model, groups, cut, block, previous, before, after, mode):
    """Going on needs the cache and the ids, nothing else; memory kept on the host or not, in any combination."""
    cut = min(cut, groups - 1)
    span, tokens = video(model, groups)
    first, second = parts_of(span, tokens, [cut], model.config.tokens_per_group)
    whole = filled(StreamingPrefiller(model, [40, 41], ChunkedPrefill.from_blocks(block, previous)), (span, tokens))
    begun = StreamingPrefiller(model, [40, 41], ChunkedPrefill.from_blocks(block, previous, offload=before))
    filled(begun, first)
    kept = [layer.keys.clone() for layer in begun.cache.layers]
    strategy = ChunkedPrefill.from_blocks(block, previous, mode=mode, offload=after and mode == "streaming")
    rest = chunked_prefiller(model, [40, 41], strategy, cache=begun.cache.fork(), ids=begun.ids)
    filled(rest, second)
    assert rest.ids == [40, 41, *span.ids]
    assert worst(rest.cache, whole) < TOLERANCE
    assert all(torch.equal(a, layer.keys) for a, layer in zip(kept, begun.cache.layers))


def test_a_window_over_everything_is_full_attention(model):
    span, tokens = video(model, 9)
    full = filled(FullPrefiller(model, [40, 41]), (span, tokens))
    for strategy in (ChunkedPrefill.from_blocks(2, 11), ChunkedPrefill.from_blocks(2, 11, mode="mask")):
        assert worst(filled(chunked_prefiller(model, [40, 41], strategy), (span, tokens)), full) < TOLERANCE
    near = filled(chunked_prefiller(model, [40, 41], ChunkedPrefill.from_blocks(2, 1)), (span, tokens))
    assert worst(near, full) > 1e-2


def test_eager_attention_gives_the_same(model):
    span, tokens = video(model, 8)
    caches = []
    try:
        for kernel in ("sdpa", "eager"):
            model.set_attn_implementation(kernel)
            for mode in ("streaming", "mask"):
                strategy = ChunkedPrefill.from_blocks(2, 1, mode=mode)
                caches.append(filled(chunked_prefiller(model, [40, 41], strategy), (span, tokens)))
    finally:
        model.set_attn_implementation("sdpa")
    assert max(worst(cache, caches[0]) for cache in caches) < TOLERANCE


def test_kernels_without_masks_get_timestamps_in_causal_pieces(model, monkeypatch):
    """As flash attention does: no mask is ever handed over."""
    span, tokens = video(model, 8)
    want = filled(chunked_prefiller(model, [40], ChunkedPrefill.from_blocks(2, 1)), (span, tokens))
    handed = []

    def flash(module, q, k, v, mask, causal=False):
        handed.append(mask)
        new, total = q.shape[2], k.shape[2]
        seen = torch.ones(new, total, dtype=torch.bool).tril_(total - new)
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=module.scaling, enable_gqa=True
        )

    monkeypatch.setattr("videoxl.model.attention.masked_attention", flash)
    monkeypatch.setattr(model.config.text_config, "_attn_implementation_internal", "flash_attention_2")
    got = filled(chunked_prefiller(model, [40], ChunkedPrefill.from_blocks(2, 1)), (span, tokens))
    assert handed
    assert all(mask is None for mask in handed)
    assert worst(got, want) < TOLERANCE


def test_masks_are_made_in_pieces(model, monkeypatch):
    span, tokens = video(model, 10)
    strategy = ChunkedPrefill.from_blocks(2, 1)
    want = filled(chunked_prefiller(model, [40], strategy), (span, tokens))
    monkeypatch.setattr(chunked, "MASK_ELEMENTS", {"cpu": 700, "cuda": 700})
    monkeypatch.setattr(chunked, "LEAST_ROWS", 1)
    monkeypatch.setattr(attention, "ROWS_ON_CPU", 5)
    assert worst(filled(chunked_prefiller(model, [40], strategy), (span, tokens)), want) < TOLERANCE


def test_no_mask_of_all_against_all(model, monkeypatch):
    """The largest tensor of booleans stays far below the square of the length."""
    span, tokens = video(model, 60)
    sizes = []
    ones = torch.ones

    def spy(*shape, **kwargs):
        made = ones(*shape, **kwargs)
        if made.dtype == torch.bool:
            sizes.append(made.numel())
        return made

    monkeypatch.setattr(torch, "ones", spy)
    prefiller = StreamingPrefiller(model, [40], ChunkedPrefill.from_blocks(2, 1), tile_groups=4)
    filled(prefiller, (span, tokens))
    assert sizes
    assert max(sizes) < len(prefiller.ids) ** 2 / 20


def test_offloaded_the_device_holds_landmarks_and_the_reach_of_windows(model):
    span, tokens = video(model, 30)
    prefiller = StreamingPrefiller(model, [40, 41], ChunkedPrefill.from_blocks(2, 1, offload=True), tile_groups=4)
    with torch.inference_mode():
        for part in parts_of(span, tokens, list(range(4, 30, 4)), model.config.tokens_per_group):
            prefiller.add(*part)
            store = prefiller.store
            assert isinstance(store, HostStore)
            reach = 2 * 2 * max(g.token_end - g.token_start for g in span.groups)
            assert all(len(tail.block) <= reach for tail in store._tails)
            assert all(tail.block.untyped_storage().nbytes() == tail.block.nbytes for tail in store._tails)
        prefiller.finish()
    assert all(isinstance(layer, HostLayer) and layer.keys.device.type == "cpu" for layer in prefiller.cache.layers)
    assert all(tail is None for tail in store._tails)
    question = prefiller.cache.fork(reserve=len(prefiller.ids) + 4).layers[0]
    new = noise(1, question.keys.shape[1], 2, question.keys.shape[-1])
    question.update(new, new)  # a question's cache is on the device and leaves the host's alone
    assert question.keys.untyped_storage().data_ptr() != prefiller.cache.layers[0].keys.untyped_storage().data_ptr()


def test_the_same_tiles_give_the_same_bits(model):
    span, tokens = video(model, 12)
    a, b = (filled(chunked_prefiller(model, [40], ChunkedPrefill()), (span, tokens)) for _ in range(2))
    assert worst(a, b) == 0


def test_a_mode_without_masks_is_refused_where_a_mask_is_needed(model, monkeypatch):
    prefiller = chunked_prefiller(model, [40], ChunkedPrefill(mode="mask"))
    prefiller.add(*video(model, 2))
    monkeypatch.setattr(model.config.text_config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match="mode='mask' needs attention='sdpa' or 'eager'"):
        prefiller.finish()
