"""The language model against transformers' own: Qwen2, and what later families need (Qwen3, Qwen3-VL's positions)."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.model.builders import difference, noise
from videoxl.errors import CheckpointError
from videoxl.memory.kv_cache import KVCache
from videoxl.model.attention import causal_attention, eager_attention
from videoxl.model.decoder import LanguageModel
from videoxl.model.layers import RMSNorm, Rope

TOLERANCE = 2e-6
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 512,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}
PLAIN = {"rope_type": "default", "rope_theta": 1e6}


def pair(kind: str, seed: int = 0, **settings_):
    """Our language model and transformers' own, with the same random weights."""
    configs = {"qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}
    config = configs[kind](**{**SIZES, "rope_parameters": PLAIN, **settings_})
    torch.manual_seed(seed)
    theirs = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = LanguageModel(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("kind", "settings_"),
    [
        ("qwen2", {}),
        ("qwen2", {"rope_parameters": YARN}),
        ("qwen2", {"rope_parameters": {**YARN, "attention_factor": 0.7}}),
        ("qwen2", {"rope_parameters": LINEAR}),
        ("qwen3", {"head_dim": 12}),
        ("qwen3", {"head_dim": 12, "attention_bias": True}),
    ],
    ids=str,
)
@torch.no_grad()
def test_hidden_states_are_those_of_transformers(kind, settings_, kernel):
    """Whole, and in two parts on a cache; measured: 5e-7."""
    ours, theirs = pair(kind, **settings_)
    ours.set_attn_implementation(kernel)
    ids = torch.arange(2 * 77).reshape(2, 77) % 97
    out, want = ours(ids, output_hidden_states=True), theirs(ids, output_hidden_states=True)
    assert difference(out.last_hidden_state, want.last_hidden_state) < TOLERANCE
    for mine, other in zip(out.hidden_states, want.hidden_states, strict=True):
        assert difference(mine, other) < TOLERANCE
    cache = KVCache(3)
    parts = [ours(part, past_key_values=cache).last_hidden_state for part in ids.split([31, 45, 1], dim=1)]
    assert difference(torch.cat(parts, dim=1), want.last_hidden_state) < TOLERANCE
    assert len(cache) == 77


@torch.no_grad()
def test_padding_on_either_side_is_not_seen():
    ours, theirs = pair("qwen2")
    ids = torch.arange(3 * 20).reshape(3, 20) % 97
    seen = torch.ones_like(ids)
    seen[0, :7], seen[1, -4:] = 0, 0
    positions = (seen.cumsum(1) - 1).clamp_min(0)
    for kernel in ("sdpa", "eager"):
        ours.set_attn_implementation(kernel)
        out = ours(ids, attention_mask=seen, position_ids=positions).last_hidden_state
        want = theirs(ids, attention_mask=seen, position_ids=positions).last_hidden_state
        assert difference(out[seen.bool()], want[seen.bool()]) < TOLERANCE
        assert torch.isfinite(out).all()


@torch.no_grad()
def test_positions_of_three_dimensions_and_inputs_per_layer_are_those_of_qwen3_vl():
    """Time, height and width, interleaved, and pictures added behind the first layers. measured: 8e-7."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = transformers.Qwen3VLTextConfig(**SIZES, head_dim=16, rope_parameters=rope, pad_token_id=0)
    torch.manual_seed(1)
    theirs = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    ours = LanguageModel(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ids = torch.arange(2 * 23).reshape(2, 23) % 97
    positions = torch.randint(0, 300, (3, 2, 23), generator=torch.Generator().manual_seed(0))
    visual = (torch.arange(23) % 3 == 1).expand(2, -1)
    pictures = [noise(int(visual.sum()), 48, seed=n) for n in range(2)]
    want = theirs(
        inputs_embeds=theirs.embed_tokens(ids),
        position_ids=positions,
        visual_pos_masks=visual,
        deepstack_visual_embeds=pictures,
    ).last_hidden_state
    added = [torch.zeros(2, 23, 48).masked_scatter(visual[..., None], picture) for picture in pictures]
    out = ours(ids, position_ids=positions, layer_inputs=added).last_hidden_state
    assert difference(out, want) < TOLERANCE


@torch.no_grad()
def test_positions_can_be_taken_out_and_put_in_again():
    ours, _ = pair("qwen2", rope_parameters=YARN)
    keys, positions = noise(1, 2, 9, 8), torch.arange(40, 49)
    assert difference(ours.inverse_rope(ours.apply_rope(keys, positions), positions), keys) < TOLERANCE
    moved = ours.inverse_rope(ours.apply_rope(keys, positions), torch.full((9,), 30))
    plain, _ = pair("qwen2")
    moved = plain.inverse_rope(plain.apply_rope(keys, positions), torch.full((9,), 30))
    assert difference(moved, plain.apply_rope(keys, positions - 30)) < TOLERANCE


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type 'dynamic'"),
        ({"hidden_act": "gelu"}, "activation is 'gelu'"),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}, "sliding windows"),
    ],
)
def test_what_is_not_known_is_refused_by_name(settings_, message):
    with pytest.raises(CheckpointError, match=message):
        LanguageModel(transformers.Qwen2Config(**{**SIZES, "rope_parameters": PLAIN, **settings_}))
    with pytest.raises(CheckpointError, match="'llama'; known are qwen2"):
        LanguageModel(transformers.LlamaConfig(**SIZES))


class Layer:
    layer_idx, scaling, kernel, dropout = 0, 0.3, "sdpa", 0.0


@given(new=st.integers(1, 40), past=st.integers(0, 60), rows=st.sampled_from([3, 7, 256]))
@settings(max_examples=60, deadline=None)
def test_causal_attention_is_the_plain_statement(new, past, rows):
    q, k, v = noise(2, 6, new, 8, seed=1), noise(2, 2, past + new, 8, seed=2), noise(2, 2, past + new, 8, seed=3)
    mask = torch.ones(new, past + new, dtype=torch.bool).tril_(past)
    want = eager_attention(Layer(), q, k, v, mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("videoxl.model.attention.ROWS_ON_CPU", rows)
        assert difference(causal_attention(Layer(), q, k, v), want) < 1e-6


class Largest(TorchDispatchMode):
    """Notes the largest tensor of booleans, and the largest copy of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = self.other = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            if out.dtype == torch.bool:
                self.mask = max(self.mask, out.numel())
            else:
                self.other = max(self.other, out.untyped_storage().nbytes() // out.element_size())
        return out


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@torch.no_grad()
def test_plain_causal_attention_builds_no_mask_of_all_and_repeats_no_keys(kernel):
    """The largest mask has as many rows as attend together; nothing is as large as keys for every query head."""
    ours, _ = pair("qwen2", num_attention_heads=12, num_key_value_heads=2)
    ours.set_attn_implementation(kernel)
    cache = KVCache(3, reserve=6000)
    ours(torch.zeros(1, 5000, dtype=torch.long), past_key_values=cache)
    with Largest() as seen:
        ours(torch.zeros(1, 600, dtype=torch.long), past_key_values=cache)
    assert seen.mask <= 256 * 5600 < 600 * 5600
    with Largest() as seen:
        ours(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache)
    assert seen.mask == 0
    assert seen.other <= 12 * 5601  # the weights of eager attention; keys for every head would be four times that


def test_projections_side_by_side_give_the_same_and_notice_what_replaces_them():
    ours, _ = pair("qwen3", head_dim=12, attention_bias=True)
    ids = torch.arange(33)[None] % 97
    with torch.no_grad():
        want = ours(ids).last_hidden_state
        weights = {name: value.clone() for name, value in ours.state_dict().items()}
        ours.fuse_projections()
        own = ours.layers[1].self_attn
        assert own.qkv is not None
        assert own.qkv.holds(own.q_proj, own.k_proj, own.v_proj)
        assert difference(ours(ids).last_hidden_state, want) < TOLERANCE
        assert all(torch.equal(value, weights[name]) for name, value in ours.state_dict().items())
        own.v_proj.weight.mul_(2)  # written in place, it is seen
        changed = ours(ids).last_hidden_state
        assert difference(changed, want) > 1e-3
        own.v_proj.weight.div_(2)
        replaced = torch.nn.Linear(48, own.v_proj.out_features)
        replaced.load_state_dict({"weight": own.v_proj.weight * 2, "bias": own.v_proj.bias})
        own.v_proj = replaced
        assert not own.qkv.holds(own.q_proj, own.k_proj, own.v_proj)
        assert difference(ours(ids).last_hidden_state, changed) < TOLERANCE
        assert difference(copy.deepcopy(ours)(ids).last_hidden_state, changed) < TOLERANCE
        assert difference(ours.double()(ids).last_hidden_state, changed) < TOLERANCE
    ours(ids).last_hidden_state.sum().backward()
    assert ours.layers[0].self_attn.q_proj.weight.grad is not None


def test_the_norm_is_its_definition():
    norm = RMSNorm(24, 1e-6)
    torch.nn.init.normal_(norm.weight)
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        x, weight = noise(3, 5, 24).to(dtype), norm.weight.detach()
        exact = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()
        assert difference(norm.to(dtype)(x), exact) < bound


def test_gradients_reach_all_weights_and_equal_those_of_transformers():
    ours, theirs = pair("qwen3", head_dim=12)
    ids = torch.arange(40)[None] % 97
    for model in (ours, theirs):
        model(ids).last_hidden_state.square().sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert difference(parameter.grad, wanted[name].grad) < 5e-5 * float(wanted[name].grad.abs().max() + 1), name


def test_yarn_keeps_fast_frequencies_and_divides_slow_ones():
    rope = Rope("yarn", 1e6, 64, factor=4.0, original_positions=32768)
    plain = Rope("default", 1e6, 64).frequencies()
    ratio = plain / rope.frequencies()
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(4)
    assert (ratio.diff() >= -1e-6).all()
