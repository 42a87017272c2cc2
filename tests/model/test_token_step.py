"""One token by the weights alone, against the ordinary forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import nn

from tests.model.test_decoder import YARN, pair
from videoxl.memory.kv_cache import KVCache
from videoxl.model.decoder import LanguageModel
from videoxl.model.token_step import HostPositions, TokenStep, tables_for


def fused(kind: str, dtype: torch.dtype = torch.float32, **settings: Any) -> LanguageModel:
    model, _ = pair(kind, **settings)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        model.to(dtype).fuse_projections()
    return model


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen2", {}),
        ("qwen2", {"rope_parameters": YARN, "num_key_value_heads": 6}),
        ("qwen2", {"num_key_value_heads": 1}),
        ("qwen3", {"head_dim": 12, "attention_bias": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_hidden_states_keys_and_values_are_the_same_bits(
    kind: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    model = fused(kind, dtype, **settings)
    ids = torch.arange(40)[None] % 97
    whole, grown = KVCache(3), KVCache(3)
    for cache in (whole, grown):
        model(ids[:, :33], past_key_values=cache)
    step = TokenStep.of(model)
    assert step is not None
    buffers = grown.make_room(40)
    positions = HostPositions(step, buffers, 33, tables_for(model, 33, 7, buffers[0][0]))
    for place in range(33, 40):
        want = model(ids[:, place : place + 1], past_key_values=whole).last_hidden_state[0]
        positions.go_to(place)
        assert torch.equal(step(model.embed_tokens(ids[0, place : place + 1]), positions), want)
    grown.grow_to(40)
    for one, other in zip(grown.layers, whole.layers):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)


def with_adapters(model: LanguageModel) -> None:
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["o_proj"]), model)


def with_another_projection(model: LanguageModel) -> None:
    model.layers[1].self_attn.k_proj = nn.Linear(48, 16)


def with_a_hook(model: LanguageModel) -> None:
    model.layers[2].mlp.register_forward_hook(lambda *_: None)


def with_another_forward(model: LanguageModel) -> None:
    layer = model.layers[0]
    layer.forward = layer.forward


CHANGES: dict[str, Callable[[LanguageModel], object]] = {
    "adapters": with_adapters,
    "another projection": with_another_projection,
    "a hook": with_a_hook,
    "another forward": with_another_forward,
    "eager attention": lambda model: model.set_attn_implementation("eager"),
    "training": lambda model: model.train(),
    "another dtype, not side by side": lambda model: model.double(),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_model_that_was_changed_goes_through_its_forward(change: str) -> None:
    model = fused("qwen2")
    assert TokenStep.of(model) is not None
    CHANGES[change](model)
    assert TokenStep.of(model) is None


def test_where_gradients_are_wanted_there_is_no_short_way() -> None:
    assert TokenStep.of(fused("qwen2")) is None
