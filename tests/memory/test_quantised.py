"""Keys and values in eight bits: what is read is what was appended, rounded, whatever was done in between."""

from __future__ import annotations

import pytest
import torch

from videoxl.config import KV_DTYPES
from videoxl.memory.kv_cache import KVCache, PreallocatedLayer
from videoxl.memory.quantised import Quantisation, QuantisedLayer, kv_dtype_of, packed_bytes, quantised_cache, usable
from videoxl.memory.split_cache import SplitCache
from videoxl.model.attention import rotate_wide
from videoxl.model.layers import Rope, RotaryEmbedding

HEADS, WIDTH = 2, 16
ROTARY = RotaryEmbedding(Rope("default", 1e4, WIDTH))
LARGEST_ERROR = {"int8": 0.5 / 127, "fp8": 1 / 16}
"""Of a number, as a share of the largest of its token and head."""


def tables(positions: torch.Tensor, device: torch.device):
    return ROTARY(positions, device, torch.float32)


def layer(name: str = "int8", bias: torch.Tensor | None = None, reserved: int = 0) -> QuantisedLayer:
    return QuantisedLayer(Quantisation(name, bias, None if bias is None else tables), reserved)


def states(count: int, seed: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(batch, HEADS, count, WIDTH, generator=source) for _ in range(2))
    return keys, values


@pytest.mark.parametrize("name", KV_DTYPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_is_that_of_rounding(name, biased, dtype):
    bias = 50 * torch.randn(HEADS, WIDTH, generator=torch.Generator().manual_seed(9)) if biased else None
    keys, values = states(37, 0)
    expected = keys
    if bias is not None:
        expected = rotate_wide(keys + bias[:, None], tables(torch.arange(37), keys.device))
    expected = expected.to(dtype)
    held = layer(name, bias)
    held.update(expected[:, :, :20], values[:, :, :20].to(dtype))
    found_keys, found_values = held.update(expected[:, :, 20:], values[:, :, 20:].to(dtype))
    assert found_keys.dtype == found_values.dtype == dtype
    scale = keys.norm(dim=-1, keepdim=True)  # without the bias, which is not rounded
    rounding = 0.5 * torch.finfo(dtype).eps * expected.abs().float() + 1e-4
    assert ((found_keys.float() - expected.float()).abs() <= LARGEST_ERROR[name] * scale + 2 * rounding).all()
    largest = values.abs().amax(-1, keepdim=True)
    assert ((found_values.float() - values).abs() <= LARGEST_ERROR[name] * largest + 2 * rounding.mean() + 0.02).all()


@pytest.mark.parametrize("cuts", [(9,), (1, 2, 6), (3, 6)])
def test_any_split_is_all_at_once(cuts):
    bias = torch.randn(HEADS, WIDTH, generator=torch.Generator().manual_seed(1))
    keys, values = states(9, 1)
    whole, parts = layer(bias=bias), layer(bias=bias)
    expected = whole.update(keys, values)
    begin = 0
    for end in (*cuts, 9):
        if end > begin:
            parts.update(keys[:, :, begin:end], values[:, :, begin:end])
        begin = end
    assert all(map(torch.equal, expected, parts.span(0, 9)))


def test_every_way_to_read_reads_the_same():
    held = layer("fp8", torch.randn(HEADS, WIDTH))
    held.update(*states(11, 2))
    positions = torch.tensor([7, 0, 3])
    assert torch.equal(held.select("keys", positions), held.keys[:, :, positions])
    assert torch.equal(held.select("values", positions), held.values[:, :, positions])
    assert all(map(torch.equal, held.span(4, 9), (held.keys[:, :, 4:9], held.values[:, :, 4:9])))


def test_forks_share_until_they_grow():
    cache = quantised_cache([layer().how] * 2, 40)
    for number in range(2):
        cache.update(*states(10, number), number)
    before = [held.keys.clone() for held in cache.layers]
    fork, other = cache.fork(), cache.fork()
    assert fork.layers[0].buffer() is cache.layers[0].buffer()
    for one, seed in ((fork, 5), (other, 6)):
        keys, _ = one.update(*states(3, seed), 0)
        assert torch.equal(keys[:, :, :10], before[0])
    assert all(torch.equal(held.keys, was) for held, was in zip(cache.layers, before))
    assert fork.layers[0].buffer() is cache.layers[0].buffer()  # the first one found room
    assert not torch.equal(fork.layers[0].keys, other.layers[0].keys)
    fork.truncate(4)
    assert torch.equal(fork.layers[0].keys, before[0][:, :, :4])


def test_what_is_split_off_comes_back_bit_for_bit():
    cache = quantised_cache([layer(bias=torch.randn(HEADS, WIDTH)).how], 30)
    cache.update(*states(12, 3), 0)
    expected = cache.layers[0].span(0, 12)
    split = SplitCache(cache, 7)
    assert split.nbytes == cache.nbytes
    assert all(map(torch.equal, split.layers[0].span(0, 12), expected))


def test_bytes_are_those_of_codes_and_scales():
    held = layer(reserved=100)
    held.update(*states(10, 4))
    assert held.nbytes == packed_bytes(10, HEADS, WIDTH) == 2 * 10 * HEADS * (WIDTH + 4)
    assert kv_dtype_of(KVCache([held])) == "int8"
    assert kv_dtype_of(KVCache(1)) is None
    assert held.is_packed
    assert not PreallocatedLayer().is_packed


def test_several_sequences_and_other_tensors():
    held = layer()
    held.replace(*states(5, 5, batch=3))
    keys, _ = held.update(*states(2, 6, batch=3))
    assert keys.shape == (3, HEADS, 7, WIDTH)


def test_zeros_stay_zeros():
    held = layer("fp8")
    keys, values = held.update(torch.zeros(1, HEADS, 3, WIDTH), torch.zeros(1, HEADS, 3, WIDTH))
    assert not keys.any()
    assert not values.any()


def test_a_device_says_whether_it_has_a_dtype():
    assert usable("int8", torch.device("cpu"))
    assert not usable("fp8", torch.device("meta"))
