"""Layers of the language model: rotary embedding, norm, attention, feed-forward. Compute what transformers' Qwen2 does.

They stand apart from :class:`~videoxl.model.decoder.LanguageModel`: transformers lets a caller choose another attention
for a loaded model only if no attention layer stands in the file of its class.

Shapes: ``B`` batch, ``L`` new tokens, ``D`` model width, ``N`` query heads, ``K`` key/value heads, ``E`` head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import GradientCheckpointingLayer, PreTrainedConfig

from videoxl.errors import CheckpointError
from videoxl.model.attention import AttentionPlan, Pair
from videoxl.model.side_by_side import SideBySide
from videoxl.model.upload import to_device

Projection = Literal["q", "k", "v"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of a model, as its config states it."""

    kind: str
    """``default``, ``linear`` or ``yarn``."""
    theta: float
    width: int
    """Head width ``E``."""
    factor: float = 1.0
    original_positions: int = 0
    """Positions the model was trained for, before ``yarn`` stretched them."""
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    sections: tuple[int, ...] = ()
    """Frequencies per position dimension, where positions are three numbers (time, height, width), interleaved."""

    @classmethod
    def from_config(cls, config: PreTrainedConfig, width: int) -> Rope:
        """Raises :class:`CheckpointError` for a scaling that is not known here."""
        given = dict(config.rope_parameters or {})
        kind = str(given.get("rope_type", "default"))
        if kind not in ("default", "linear", "yarn"):
            raise CheckpointError(f"config.json asks for rope_type {kind!r}; known are default, linear and yarn")
        return cls(
            kind=kind,
            theta=float(given.get("rope_theta", 10_000.0)),
            width=width,
            factor=float(given.get("factor") or 1.0),
            original_positions=int(
                given.get("original_max_position_embeddings") or config.max_position_embeddings  # what yarn stretches
            ),
            attention_factor=given.get("attention_factor"),
            beta_fast=float(given.get("beta_fast") or 32.0),
            beta_slow=float(given.get("beta_slow") or 1.0),
            sections=tuple(given.get("mrope_section") or ()),
        )

    @property
    def scale(self) -> float:
        """Factor on cosines and sines: 1, or what YaRN (arXiv 2309.00071, 3.4) sets for its factor."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return float(self.attention_factor)
        return 1.0 if self.factor <= 1 else 0.1 * math.log(self.factor) + 1.0

    def frequencies(self) -> torch.Tensor:
        """Radians per position, ``[E / 2]`` in float32."""
        plain = 1.0 / self.theta ** (torch.arange(0, self.width, 2, dtype=torch.int64).float() / self.width)
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "yarn":
            kept = self._kept()
            return plain / self.factor * (1 - kept) + plain * kept
        return plain

    def _kept(self) -> torch.Tensor:
        """Share of each frequency that YaRN leaves as it is: all of the fast ones, nothing of the slow ones."""

        def place(turns: float) -> float:  # of the frequency that turns so often over the original length
            slow = self.original_positions / (turns * 2 * math.pi)
            return self.width * math.log(slow) / (2 * math.log(self.theta))

        low = max(math.floor(place(self.beta_fast)), 0)
        high = min(math.ceil(place(self.beta_slow)), self.width - 1)
        ramp = (torch.arange(self.width // 2, dtype=torch.float32) - low) / (max(high - low, 0) or 0.001)
        return 1 - ramp.clamp(0, 1)

    def axes(self) -> torch.Tensor:
        """Which of three position numbers turns each frequency, ``[E / 2]``: time first, height and width between."""
        axes = torch.zeros(self.width // 2, dtype=torch.long)
        for axis in (1, 2):
            axes[axis : 3 * self.sections[axis] : 3] = axis
        return axes


class RotaryEmbedding(nn.Module):
    """Cosines and sines of positions, computed in float32; the sines of the first half of a head are negative."""

    def __init__(self, rope: Rope) -> None:
        super().__init__()
        self.rope = rope
        self._frequencies: dict[torch.device, torch.Tensor] = {}

    def forward(self, positions: torch.Tensor, device: torch.device, dtype: torch.dtype) -> Pair:
        """Positions ``[..., L]``, or ``[3, ..., L]`` in three dimensions -> cosines and sines ``[..., L, E]``."""
        frequencies = self._frequencies.get(device)
        if frequencies is None:
            with torch.inference_mode(False):  # they outlive the call, and training may use them next
                frequencies = self._frequencies[device] = self.rope.frequencies().to(device)
        positions = to_device(positions, device)
        if self.rope.sections:
            each = positions.float().movedim(0, -1)[..., self.rope.axes().to(device)]
        else:
            each = positions[..., None].float()
        angles = each * frequencies
        cos, sin = angles.cos() * self.rope.scale, angles.sin() * self.rope.scale
        return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


class RMSNorm(nn.Module):
    """Root mean square norm, in float32 whatever comes in.

    On a GPU, outside training, one kernel does it. In half precision that rounds once, behind the weight, where the
    written-out form rounds twice: at most one unit in the last place apart.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one_kernel = x.dtype == torch.float32 or (x.is_cuda and not torch.is_grad_enabled())
        if one_kernel and x.dtype == self.weight.dtype:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class MLP(nn.Module):
    """Gated feed-forward layer (SwiGLU)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.gate_up: SideBySide | None = None

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        if self.gate_up is not None and self.gate_up.holds(self.gate_proj, self.up_proj):
            gate, up = self.gate_up(x_BLD).chunk(2, dim=-1)
            return cast(torch.Tensor, self.down_proj(F.silu(gate) * up))
        return cast(torch.Tensor, self.down_proj(F.silu(self.gate_proj(x_BLD)) * self.up_proj(x_BLD)))


@dataclass(frozen=True)
class DecoderSpec:
    """Sizes of a decoder and what tells its kind from others."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    eps: float
    dropout: float
    rope: Rope
    qkv_bias: bool
    """Whether q, k and v projections have a bias."""
    o_bias: bool
    """Whether the output projection has one."""
    qk_norm: bool
    """Whether queries and keys are normed per head before they are rotated."""

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> DecoderSpec:
        """Raises :class:`CheckpointError` for a model type, an activation or a RoPE that is not known here."""
        kind = config.model_type
        if kind not in KINDS:
            raise CheckpointError(f"the language model is a {kind!r}; known are {', '.join(KINDS)}")
        if config.hidden_act != "silu":
            raise CheckpointError(f"the language model's activation is {config.hidden_act!r}; known is 'silu'")
        if getattr(config, "use_sliding_window", False):
            raise CheckpointError("the language model has sliding windows, which are not supported")
        bias, norm = KINDS[kind]
        all_biases = bool(getattr(config, "attention_bias", False))
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_width=width,
            vocabulary=config.vocab_size,
            eps=config.rms_norm_eps,
            dropout=config.attention_dropout,
            rope=Rope.from_config(config, width),
            qkv_bias=bias or all_biases,
            o_bias=all_biases,
            qk_norm=norm,
        )


KINDS: Mapping[str, tuple[bool, bool]] = {
    "qwen2": (True, False),
    "qwen3": (False, True),
    "qwen3_vl_text": (False, True),
}
"""Model type -> whether q, k and v have a bias by default, and whether queries and keys are normed."""


class Attention(nn.Module):
    """Self-attention with grouped heads; with beacon projections where ``beacon_param`` names them (SPEC 2.4)."""

    def __init__(
        self, config: PreTrainedConfig, spec: DecoderSpec, layer_idx: int, beacon_param: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim, self.num_key_value_groups = spec.head_width, spec.heads // spec.kv_heads
        self.scaling, self.attention_dropout, self.is_causal = spec.head_width**-0.5, spec.dropout, True
        queries, keys = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
        self.q_proj = nn.Linear(spec.width, queries, bias=spec.qkv_bias)
        self.k_proj = nn.Linear(spec.width, keys, bias=spec.qkv_bias)
        self.v_proj = nn.Linear(spec.width, keys, bias=spec.qkv_bias)
        self.o_proj = nn.Linear(queries, spec.width, bias=spec.o_bias)
        self.qk_norm = spec.qk_norm
        if spec.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(spec.head_width, spec.eps), RMSNorm(spec.head_width, spec.eps)
        for name in beacon_param:
            like = cast(nn.Linear, getattr(self, f"{name}_proj"))
            self.add_module(f"beacon_{name}_proj", nn.Linear(like.in_features, like.out_features, bias=True))
        self.beacon_param = tuple(beacon_param)
        self.heads, self.kv_heads = spec.heads, spec.kv_heads
        self.qkv: SideBySide | None = None
        self.kernel = "sdpa"
        """Set by :meth:`LanguageModel.run_plan` to what the model was loaded with."""

    @property
    def dropout(self) -> float:
        """Share of attention weights dropped now."""
        return self.attention_dropout if self.training else 0.0

    def forward(self, hidden_BLD: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        if self.qkv is not None and plan.beacon_slots is None and self.qkv.holds(self.q_proj, self.k_proj, self.v_proj):
            queries, keys, values = self._project_at_once(self.qkv, hidden_BLD)
        else:
            queries, keys, values = (self.project(name, hidden_BLD, plan.beacon_slots) for name in PROJECTIONS)
        out_BNLE = plan.attend(self, queries, keys, values)
        return cast(torch.Tensor, self.o_proj(out_BNLE.transpose(1, 2).flatten(2)))

    def _project_at_once(self, qkv: SideBySide, hidden_BLD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = qkv(hidden_BLD)
        states_BNLE = out.view(*out.shape[:-1], -1, self.head_dim).transpose(1, 2)
        end = self.heads + self.kv_heads
        queries, keys, values = states_BNLE[:, : self.heads], states_BNLE[:, self.heads : end], states_BNLE[:, end:]
        if self.qk_norm:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        return queries, keys, values

    def project(
        self, name: Projection, hidden_BLD: torch.Tensor, beacon_slots: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Un-rotated queries ``[B, N, L, E]``, or keys or values ``[B, K, L, E]``; beacon rows by their own projection.

        Rows are told apart by index: computing both for all rows would cost the whole projection twice.
        """
        out = getattr(self, f"{name}_proj")(hidden_BLD)
        if beacon_slots is not None and name in self.beacon_param:
            slots = beacon_slots.to(out.device)
            beacons = getattr(self, f"beacon_{name}_proj")(hidden_BLD.index_select(1, slots))
            out = out.index_copy(1, slots, beacons.to(out.dtype))
        states_BLNE = out.view(*out.shape[:-1], -1, self.head_dim)
        if self.qk_norm and name != "v":
            states_BLNE = (self.q_norm if name == "q" else self.k_norm)(states_BLNE)
        return cast(torch.Tensor, states_BLNE.transpose(1, 2))


class DecoderLayer(GradientCheckpointingLayer):
    """Attention, then the feed-forward layer, each on a norm of what comes in and added to it."""

    def __init__(
        self, config: PreTrainedConfig, spec: DecoderSpec, layer_idx: int, beacon_param: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.self_attn = Attention(config, spec, layer_idx, beacon_param)
        self.mlp = MLP(spec.width, spec.inner)
        self.input_layernorm = RMSNorm(spec.width, spec.eps)
        self.post_attention_layernorm = RMSNorm(spec.width, spec.eps)

    @property
    def device(self) -> torch.device:
        """Where the layer computes."""
        return self.input_layernorm.weight.device

    def forward(self, hidden_BLD: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        hidden_BLD = hidden_BLD + self.self_attn(self.input_layernorm(hidden_BLD), plan)
        out_BLD: torch.Tensor = hidden_BLD + self.mlp(self.post_attention_layernorm(hidden_BLD))
        return out_BLD
