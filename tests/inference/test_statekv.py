"""Prefill with a carried state, and attention with the mass of every key."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import videoxl
from tests.model.families.qwen3_vl_folder import Shape, pictures, write_folder
from videoxl import FullPrefill, StateKVPrefill
from videoxl.inference.prefill.statekv import most_attended
from videoxl.model import attention_mass, attention_parts
from videoxl.model.attention_mass import attention_and_mass, written_out


@dataclasses.dataclass
class Layer:
    layer_idx: int = 0
    scaling: float = 0.25
    kernel: str = "sdpa"
    dropout: float = 0.0


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    path = tmp_path_factory.mktemp("state")
    write_folder(path, Shape())
    return videoxl.load(str(path), device="cpu", dtype="float32")


def tensors(heads, groups, new, total, seed=0):
    random = torch.Generator().manual_seed(seed)
    q = torch.randn((1, heads, new, 16), generator=random) * 2
    return q, *(torch.randn((1, groups, total, 16), generator=random) for _ in range(2))


@pytest.mark.parametrize(
    ("heads", "groups", "new", "total", "first"), [(4, 2, 5, 12, 0), (6, 2, 7, 7, 3), (2, 2, 1, 9, 0)]
)
@pytest.mark.parametrize("at_once", [1 << 24, 64])
def test_two_passes_are_the_whole_matrix(heads, groups, new, total, first, at_once, monkeypatch):
    for module in (attention_mass, attention_parts):
        monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    given = tensors(heads, groups, new, total)
    out, mass = attention_and_mass(Layer(), *given, first)
    plain_out, plain_mass = written_out(Layer(), *given, first)
    assert torch.allclose(out, plain_out, atol=1e-5)
    assert torch.allclose(mass, plain_mass, atol=1e-5)
    assert mass.sum().item() == pytest.approx(heads * (new - first), rel=1e-5)  # every row has 1 to give


def test_the_most_attended_are_carried_on_in_their_order():
    keys = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 2, 5, 4)
    mass = torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.3], [5.0, 0.0, 4.0, 0.0, 0.0]])
    kept, values = most_attended(keys, keys + 10, mass, 2)
    assert kept[0, :, :, 0].tolist() == [[1.0, 3.0], [0.0, 2.0]]
    assert values[0, :, :, 0].tolist() == [[11.0, 13.0], [10.0, 12.0]]
    assert most_attended(keys, keys, mass, 5)[0] is keys


def film_of(engine, count):
    side = 28 if not engine.config.traits.vision.any_size else 16
    return pictures(count, side, side, seed=1), [number / 2 for number in range(count)]


@pytest.mark.parametrize("which", ["qwen", "tiny"])
def test_a_budget_for_all_is_full_prefill(which, request):
    engine = request.getfixturevalue(which)
    film, times = film_of(engine, 16)
    full = engine.encode(film, timestamps=times, prefill=FullPrefill())
    state = engine.encode(film, timestamps=times, prefill="statekv:budget=100000,step=2")
    assert state.token_ids == full.token_ids
    for ours, theirs in zip(state.cache.layers, full.cache.layers):
        assert (ours.keys - theirs.keys).abs().max() <= 1e-4 * theirs.keys.abs().max()
    assert (
        engine.ask(state, "What?", max_new_tokens=4).token_ids == engine.ask(full, "What?", max_new_tokens=4).token_ids
    )


def test_a_small_budget_reads_otherwise_and_keeps_everything(qwen):
    film, times = film_of(qwen, 16)
    full = qwen.encode(film, timestamps=times)
    state = qwen.encode(film, timestamps=times, prefill=StateKVPrefill(budget=8))
    assert state.token_ids == full.token_ids
    assert torch.equal(state.cache.positions.held_3S, full.cache.positions.held_3S)
    first = state.cache.layers[0].keys - full.cache.layers[0].keys
    assert first.abs().max() < 1e-5  # the first layer's keys see nobody
    assert (state.cache.layers[-1].keys - full.cache.layers[-1].keys).abs().max() > 1e-3
    assert state.prefill == "statekv:budget=8"
    shorter = qwen.encode(film[:6], timestamps=times[:6], prefill=StateKVPrefill(budget=8))
    state.trim(end=3.0)
    assert torch.allclose(state.cache.layers[-1].keys, shorter.cache.layers[-1].keys, atol=1e-5)


def test_plain_and_fast_read_the_same(qwen, monkeypatch):
    film, times = film_of(qwen, 14)
    fast = qwen.encode(film, timestamps=times, prefill=StateKVPrefill(budget=20, step=2))
    monkeypatch.setattr("videoxl.inference.prefill.statekv.attention_and_mass", written_out)
    plain = qwen.encode(film, timestamps=times, prefill=StateKVPrefill(budget=20, step=2))
    for ours, theirs in zip(fast.cache.layers, plain.cache.layers):
        assert torch.allclose(ours.keys, theirs.keys, atol=1e-4)


def test_it_cannot_be_extended(qwen):
    film, times = film_of(qwen, 6)
    memory = qwen.encode(film[:4], timestamps=times[:4], prefill=StateKVPrefill(budget=8))
    with pytest.raises(ValueError, match="carried on is not kept with the memory: encode the longer video"):
        memory.extend(film[4:], timestamps=times[4:])


def test_a_step_never_reads_more_than_its_budget(qwen, monkeypatch):
    seen = []

    def noted(layer, q, keys, values, first=0):
        seen.append((q.shape[2], keys.shape[2]))
        return attention_and_mass(layer, q, keys, values, first)

    monkeypatch.setattr("videoxl.inference.prefill.statekv.attention_and_mass", noted)
    film, times = film_of(qwen, 20)
    qwen.encode(film, timestamps=times, prefill=StateKVPrefill(budget=12))
    assert max(keys - new for new, keys in seen) == 12
    assert math.prod(max(seen)) < 40 * 60
