"""New tokens of one sequence through the language model, by its weights alone.

The ordinary forward serves every plan, batches, gradients, hooks and layers that were replaced; for a few tokens all
that costs more than the arithmetic. :class:`TokenStep` computes the same where the model is plain, which
:meth:`TokenStep.of` finds out. On a CPU the results are equal bit for bit. On a GPU a sum with the residual is rounded
once instead of twice.

Shapes: ``L`` new tokens, ``N`` query heads, ``K`` key/value heads, ``H = N + 2 K`` all heads, ``E`` head width, ``S``
places of a buffer, ``D`` model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from videoxl.model.attention import Pair, Watch, rotate
from videoxl.model.decoder import LanguageModel
from videoxl.model.flash import attend_to_used, flash_attention, is_flash
from videoxl.model.fused import rotate_and_append, silu_mul
from videoxl.model.layers import DecoderLayer, RMSNorm
from videoxl.model.private import attention_kernel
from videoxl.model.side_by_side import SideBySide, is_plain
from videoxl.model.upload import to_device


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """What one layer computes with."""

    norm: RMSNorm
    qkv: SideBySide
    qk_norms: tuple[RMSNorm, RMSNorm] | None
    out: nn.Linear
    mlp_norm: RMSNorm
    gate_up: SideBySide
    down: nn.Linear

    @classmethod
    def of(cls, layer: DecoderLayer) -> LayerWeights | None:
        """None where the layer has hooks or adapters, or weights that do not lie side by side."""
        own, mlp = layer.self_attn, layer.mlp
        if any(map(is_hooked, layer.modules())) or own.training:
            return None
        if not (is_plain(own.o_proj) and is_plain(mlp.down_proj)):
            return None
        if own.qkv is None or not own.qkv.holds(own.q_proj, own.k_proj, own.v_proj):
            return None
        if mlp.gate_up is None or not mlp.gate_up.holds(mlp.gate_proj, mlp.up_proj):
            return None
        return cls(
            layer.input_layernorm,
            own.qkv,
            (own.q_norm, own.k_norm) if own.qk_norm else None,
            own.o_proj,
            layer.post_attention_layernorm,
            mlp.gate_up,
            mlp.down_proj,
        )


def is_hooked(module: nn.Module) -> bool:
    """Whether something wants to be told when the module is called, or calls something else in its place.

    torch keeps hooks under these names and has no other way to ask; accelerate replaces ``forward``.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


class TokenAttention(Protocol):
    """Rotates, keeps and attends: the part of a step that depends on where buffers and positions are."""

    def attend(self, layer: int, states_LHE: torch.Tensor) -> torch.Tensor:
        """Un-rotated queries, keys and values of the new tokens -> attention output ``[L, N E]``."""
        ...


class TokenStep:
    """The layers of a plain language model, for a few tokens at a time."""

    def __init__(self, language_model: LanguageModel, layers: Sequence[LayerWeights]) -> None:
        spec = language_model.spec
        self.language_model, self.layers, self.last_norm = language_model, layers, language_model.norm
        self.heads, self.kv_heads, self.width = spec.heads, spec.kv_heads, spec.head_width

    @classmethod
    def of(cls, language_model: LanguageModel) -> TokenStep | None:
        """None where something of the model was replaced, or its attention is not torch's: take the forward."""
        if attention_kernel(language_model.config) != "sdpa" or is_hooked(language_model):
            return None
        layers = []
        for layer in language_model.decoder_layers:
            if (weights := LayerWeights.of(layer)) is None:
                return None
            layers.append(weights)
        return cls(language_model, layers) if len({layer.out.weight.device for layer in layers}) == 1 else None

    @property
    def device(self) -> torch.device:
        return self.layers[0].out.weight.device

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where the weights are."""
        return tuple(p.data_ptr() for p in self.language_model.parameters())

    def __call__(self, x_LD: torch.Tensor, attention: TokenAttention) -> torch.Tensor:
        """Through all layers and the last norm: ``[L, D] -> [L, D]``. On a GPU ``x_LD`` is written to."""
        for number, layer in enumerate(self.layers):
            states_LHE = layer.qkv(layer.norm.forward(x_LD)).view(len(x_LD), -1, self.width)
            if layer.qk_norms is not None:
                states_LHE = self._normed(states_LHE, *layer.qk_norms)
            x_LD = add_product(x_LD, attention.attend(number, states_LHE), layer.out)
            inner = silu_mul(layer.gate_up(layer.mlp_norm.forward(x_LD)))
            x_LD = add_product(x_LD, inner, layer.down)
        return self.last_norm.forward(x_LD)

    def _normed(self, states_LHE: torch.Tensor, q_norm: RMSNorm, k_norm: RMSNorm) -> torch.Tensor:
        q, k, v = states_LHE.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        return torch.cat((q_norm.forward(q), k_norm.forward(k), v), dim=1)


def add_product(x_LD: torch.Tensor, y_LI: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """``x + layer(y)``; on a GPU written over ``x``, in one kernel."""
    if x_LD.is_cuda and layer.bias is None:
        return x_LD.addmm_(y_LI, layer.weight.t())
    return x_LD + F.linear(y_LI, layer.weight, layer.bias)


class HostPositions:
    """Attention of tokens whose places the host knows, as on a CPU: each step reads as much as there is."""

    def __init__(
        self, step: TokenStep, buffers: Sequence[Pair], position: int, tables: Pair, watch: Watch | None = None
    ) -> None:
        """``buffers``: of each layer, ``[1, K, S, E]``; ``tables``: ``[room, E]``, from ``position`` on."""
        self.watch = watch
        self.heads, self.kv_heads, self.scale = step.heads, step.kv_heads, step.width**-0.5
        self.rotated = step.heads + step.kv_heads
        self.buffers, self.begin, self.tables = buffers, position, tables
        self.go_to(position)

    def go_to(self, position: int) -> None:
        """The next token has this place."""
        self.position, self.end = position, position + 1
        self.cos, self.sin = (table[position - self.begin] for table in self.tables)

    def attend(self, layer: int, states_LHE: torch.Tensor) -> torch.Tensor:
        (keys, values), (states_HE,) = self.buffers[layer], states_LHE
        rotated_HE = rotate(states_HE[: self.rotated], self.cos, self.sin)
        if self.watch is not None and layer in self.watch.layers:
            self.watch.see(layer, rotated_HE[None, : self.heads, None])
        keys[0, :, self.position] = rotated_HE[self.heads :]
        values[0, :, self.position] = states_HE[self.rotated :]
        out = F.scaled_dot_product_attention(
            rotated_HE[: self.heads].view(1, self.kv_heads, -1, states_HE.shape[-1]),
            keys[:, :, : self.end],
            values[:, :, : self.end],
            scale=self.scale,
        )
        return out.view(1, -1)


class DevicePositions:
    """Attention of tokens whose places are numbers on the GPU: every step is the same to the host, whatever its place.

    ``counters`` ``[2]`` is the row of the next token in ``tables`` ``[room, 2, E]`` and its place in the buffers,
    ``used`` ``[1]`` (int32) the number of tokens with it.
    """

    def __init__(self, step: TokenStep, buffers: Sequence[Pair], room: int, watched: frozenset[int]) -> None:
        """``watched``: layers whose queries are noted."""
        keys = buffers[0][0]
        self.watched = sorted(watched)
        self.queries_WRNE = keys.new_empty((len(watched), room, step.heads, step.width))
        """Rotated queries of the layers watched, at the row of their token."""
        self.scale, self.buffers = step.width**-0.5, buffers
        self.counters = torch.zeros(2, dtype=torch.int64, device=keys.device)
        self.used = torch.zeros(1, dtype=torch.int32, device=keys.device)
        self.tables = keys.new_empty((room, 2, step.width))

    @property
    def row(self) -> torch.Tensor:
        """The row of the next token, ``[1]``."""
        return self.counters[:1]

    @staticmethod
    def serves(keys_1KSE: torch.Tensor) -> bool:
        """Whether the kernel that reads the number of tokens from the GPU takes such buffers."""
        return is_flash(keys_1KSE, keys_1KSE)

    def go_to(self, position: torch.Tensor, tables: Pair) -> None:
        """``position`` ``[3]`` on the device: what counters and ``used`` begin with. ``tables``: from there on."""
        self.counters.copy_(position[:2])
        self.used.copy_(position[2:])
        torch.stack(tables, 1, out=self.tables)

    def show(self, watch: Watch, begin: int, end: int) -> None:
        """Show the queries of the tokens at rows ``[begin, end)``."""
        seen_WRN1E = self.queries_WRNE[:, begin:end].unsqueeze(3).clone()  # later tokens are noted at the same rows
        for layer, seen_RN1E in zip(self.watched, seen_WRN1E):
            for seen_1N1E in seen_RN1E.split(1):
                watch.see(layer, seen_1N1E)

    def advance(self) -> None:
        """Go on to the next place."""
        self.counters.add_(1)
        self.used.add_(1)

    def attend(self, layer: int, states_LHE: torch.Tensor) -> torch.Tensor:
        keys, values = self.buffers[layer]
        q_1NE = rotate_and_append(states_LHE, self.tables, self.counters, keys, values)
        if layer in self.watched:
            self.queries_WRNE[self.watched.index(layer)].index_copy_(0, self.row, q_1NE)
        return attend_to_used(q_1NE, keys, values, self.used, scale=self.scale).view(1, -1)


class DevicePrompt:
    """Attention of a prompt on a GPU: tokens in a row, whose places the host knows. Causal."""

    def __init__(
        self,
        step: TokenStep,
        buffers: Sequence[Pair],
        begin: int,
        end: int,
        watch: Watch | None = None,
        shift: int = 0,
    ) -> None:
        """``shift``: from a token's place in the buffers to its position."""
        self.watch = watch
        device = buffers[0][0].device
        self.scale, self.buffers, self.end = step.width**-0.5, buffers, end
        self.counters = to_device(torch.tensor([0, begin]), device)
        self.tables = torch.stack(tables_for(step.language_model, begin + shift, end - begin, buffers[0][0]), 1)

    def attend(self, layer: int, states_LHE: torch.Tensor) -> torch.Tensor:
        keys, values = self.buffers[layer]
        q_LNE = rotate_and_append(states_LHE, self.tables, self.counters, keys, values)
        q_1NLE = q_LNE.transpose(0, 1)[None]
        if self.watch is not None and layer in self.watch.layers:
            self.watch.see(layer, q_1NLE)
        out_1NLE = flash_attention(
            q_1NLE, keys[:, :, : self.end], values[:, :, : self.end], scale=self.scale, causal=True
        )
        return out_1NLE[0].transpose(0, 1).reshape(len(q_LNE), -1)


def tables_for(language_model: LanguageModel, begin: int, room: int, like: torch.Tensor) -> Pair:
    """Cosines and sines ``[room, E]`` of text at the positions from ``begin`` on."""
    return language_model.text_tables(torch.arange(begin, begin + room, device=like.device), like.dtype)
