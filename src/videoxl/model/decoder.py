"""The language model: transformers' Qwen2, with an attention that a :class:`Step` can take over.

In an ordinary forward nothing differs from transformers. A step is one forward whose tokens do not simply attend to
everything before them, or do not simply stay in the cache: a window of Video-XL (:mod:`videoxl.model.beacon`), a tile
of a chunked prefill. It is handed un-rotated queries, keys and values and does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention.bias import causal_lower_right
from transformers import Qwen2Config, Qwen2Model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, eager_attention_forward, rotate_half

PROJECTIONS = ("q", "k", "v")
ROWS_ON_CPU = 256
"""Queries that attend together on a CPU."""


class Step(Protocol):
    """One forward with an attention of its own. Passed to the language model as ``step=``."""

    beacons_L: torch.Tensor | None
    """Bool ``[L]``: rows that go through the beacon projections."""

    def attend(
        self, module: StepAttention, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        """Un-rotated queries, keys and values of the new tokens -> attention output ``[B, N, L, E]``.

        Rotating, caching and masking are the step's business.
        """
        ...


class StepAttention(Qwen2Attention):
    """Qwen2's attention; with beacon projections where ``beacon_param`` names them (SPEC 2.4)."""

    layer_idx: int

    def __init__(self, config: Qwen2Config, layer_idx: int, beacon_param: Sequence[str] = ()) -> None:
        super().__init__(config, layer_idx)
        for name in beacon_param:
            like = cast(nn.Linear, getattr(self, f"{name}_proj"))
            self.add_module(f"beacon_{name}_proj", nn.Linear(like.in_features, like.out_features, bias=True))
        self.beacon_param = tuple(beacon_param)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Any = None,
        step: Step | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if step is None:
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (
            self._project(name, hidden_states, step.beacons_L).view(heads).transpose(1, 2) for name in PROJECTIONS
        )
        out_BNLE = step.attend(self, q, k, v)
        out = out_BNLE.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)
        return self.o_proj(out), None

    def _project(self, name: str, hidden_BLD: torch.Tensor, beacons_L: torch.Tensor | None) -> torch.Tensor:
        """One of q, k, v; beacon rows through their own projection.

        Rows are told apart by index: computing both for all rows would cost the whole projection twice.
        """
        ordinary = getattr(self, f"{name}_proj")
        if beacons_L is None or name not in self.beacon_param:
            return cast(torch.Tensor, ordinary(hidden_BLD))
        out = ordinary(hidden_BLD)
        slots = beacons_L.nonzero().squeeze(1)
        beacons = getattr(self, f"beacon_{name}_proj")(hidden_BLD.index_select(1, slots))
        return out.index_copy(1, slots, beacons.to(out.dtype))


class LanguageModel(Qwen2Model):
    """Qwen2 whose layers know steps; with an embedding of the beacon where there are beacon projections."""

    def __init__(self, config: Qwen2Config, beacon_param: Sequence[str] = ()) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.layers):
            cast(Any, layer).self_attn = StepAttention(config, number, beacon_param)
        if beacon_param:
            self.beacon_embed_tokens = nn.Embedding(1, config.hidden_size)
        self.post_init()

    def run_step(self, embeds_BLD: torch.Tensor, step: Step) -> torch.Tensor:
        """All layers over ``[B, L, D]`` with ``step`` in charge of attention; the last hidden states ``[B, L, D]``.

        No mask is built and no cache handed on: both are the step's.
        """
        no_masks = dict.fromkeys(set(cast(Any, self.config).layer_types))
        out = self(inputs_embeds=embeds_BLD, attention_mask=no_masks, use_cache=False, step=step)
        return cast(torch.Tensor, out.last_hidden_state)

    def rotate(self, states_BKLE: torch.Tensor, positions_L: torch.Tensor, *, back: bool = False) -> torch.Tensor:
        """Rotary position embedding (half-split form), computed in fp32 and rounded once. ``back`` undoes it.

        Rotations compose: a key at position ``p`` becomes the key at ``p - d`` by rotating it back by ``d``.
        """
        rope = cast(Any, self.rotary_emb)
        if rope.rope_type == "dynamic":
            raise ValueError("keys under 'dynamic' RoPE scaling cannot be moved: its angles depend on the length")
        like = torch.empty(0, dtype=torch.float32, device=states_BKLE.device)
        cos, sin = (t[0] for t in rope(like, positions_L.to(states_BKLE.device)[None]))
        if back:
            scale = float(rope.attention_scaling) ** 2
            cos, sin = cos / scale, -sin / scale
        x = states_BKLE.float()
        return (x * cos + rotate_half(x) * sin).to(states_BKLE.dtype)


def causal_attention(
    module: StepAttention, q_BNLE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor
) -> torch.Tensor:
    """Attention of the last ``L`` of ``S`` tokens, causal and aligned at the end: ``[B, N, L, E]``.

    On a CPU a few rows at a time, over the keys they see: the kernel there computes what a mask hides, too.
    """
    rows = ROWS_ON_CPU if q_BNLE.device.type == "cpu" else q_BNLE.shape[2]
    pieces, later = [], q_BNLE.shape[2]
    for q in q_BNLE.split(rows, dim=2):
        later -= q.shape[2]
        keys = k_BKSE.shape[2] - later
        mask = _end_aligned_mask(module.config, q.shape[2], keys, q.device)
        causal = 1 < q.shape[2] == keys
        pieces.append(masked_attention(module, q, k_BKSE[:, :, :keys], v_BKSE[:, :, :keys], mask, causal=causal))
    return torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0]


def _end_aligned_mask(config: Any, new: int, total: int, device: torch.device) -> Any:
    """What ``new`` tokens at the end of ``total`` may see, in the form the attention in use is fastest with.

    None where no mask is needed: one new token, nothing before the new ones, or a kernel with a flag for it.
    """
    kernel = config._attn_implementation or "eager"
    if new in (1, total) or "flash" in kernel:
        return None
    if kernel != "eager" and device.type == "cuda":
        return causal_lower_right(new, total)
    return torch.ones(new, total, dtype=torch.bool, device=device).tril_(total - new)


def masked_attention(
    module: StepAttention,
    q_BNLE: torch.Tensor,
    k_BKSE: torch.Tensor,
    v_BKSE: torch.Tensor,
    mask: Any,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Attention under a bool ``mask`` ``[L, S]`` (or none) in the implementation the model was loaded with.

    Anything but ``eager`` and flash attention is torch's ``scaled_dot_product_attention`` with grouped heads, which
    reads every key once instead of repeating it per query head.
    """
    kernel = module.config._attn_implementation or "eager"
    if kernel != "eager" and "flash" not in kernel:
        return F.scaled_dot_product_attention(
            q_BNLE, k_BKSE, v_BKSE, attn_mask=mask, is_causal=causal, scale=module.scaling, enable_gqa=True
        )
    if kernel == "eager" and causal:
        length = q_BNLE.shape[2]
        mask = torch.ones(length, length, dtype=torch.bool, device=q_BNLE.device).tril_()
    if kernel == "eager" and mask is not None:
        mask = torch.zeros(mask.shape, dtype=q_BNLE.dtype, device=q_BNLE.device).masked_fill_(~mask, -torch.inf)
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, eager_attention_forward)
    is_causal = q_BNLE.shape[2] > 1  # flash attention aligns a causal mask at the end, as wanted here
    out_BLNE, _ = attention(
        module, q_BNLE, k_BKSE, v_BKSE, mask, dropout=0.0, scaling=module.scaling, is_causal=is_causal
    )
    return cast(torch.Tensor, out_BLNE.transpose(1, 2))
