"""The language model: embeddings, decoder layers, a final norm. Computes what transformers' Qwen2 computes.

It is ours because attention, cache and positions are what this package is about: every forward runs under an
:class:`~videoxl.model.attention.AttentionPlan`. Parameter names are those of the released checkpoints.

Shapes: ``B`` batch, ``L`` new tokens, ``S`` tokens with the cache, ``D`` model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from videoxl.model.attention import AttentionPlan, CausalPlan, Mask, Pair, TokenCache, Watch, padding_mask, rotate_wide
from videoxl.model.block_attention import BlockPlan
from videoxl.model.fused import gather_layers
from videoxl.model.layers import DecoderLayer, DecoderSpec, RMSNorm, RotaryEmbedding
from videoxl.model.private import attention_kernel
from videoxl.model.side_by_side import SideBySide


@dataclass(frozen=True)
class DecoderOutput:
    """What a forward of the language model returns."""

    last_hidden_state: torch.Tensor
    """``[B, L, D]``, behind the last norm."""
    cache: TokenCache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    """What goes into every layer, then ``last_hidden_state``; where it was asked for."""


class LanguageModel(PreTrainedModel):
    """The decoder without a head; with an embedding of the beacon where there are beacon projections."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("DecoderLayer",)
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: PreTrainedConfig, beacon_param: Sequence[str] = ()) -> None:
        super().__init__(config)
        spec = DecoderSpec.from_config(config)
        self.spec = spec
        self.embed_tokens = nn.Embedding(spec.vocabulary, spec.width, getattr(config, "pad_token_id", None))
        self.layers = nn.ModuleList(DecoderLayer(config, spec, number, beacon_param) for number in range(spec.layers))
        self.norm = RMSNorm(spec.width, spec.eps)
        self.rotary_emb = RotaryEmbedding(spec.rope)
        self._kernel = ""
        if beacon_param:
            self.beacon_embed_tokens = nn.Embedding(1, spec.width)
        self.post_init()

    @property
    def decoder_layers(self) -> list[DecoderLayer]:
        """The layers by their type."""
        return [cast(DecoderLayer, layer) for layer in self.layers]

    def fuse_projections(self) -> None:
        """Lay the weights of q, k and v, and of gate and up, side by side where they can be; for inference."""
        for layer in self.decoder_layers:
            own, mlp = layer.self_attn, layer.mlp
            own.qkv = SideBySide.of(own.q_proj, own.k_proj, own.v_proj)
            mlp.gate_up = SideBySide.of(mlp.gate_proj, mlp.up_proj)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = cast(nn.Embedding, value)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: TokenCache | None = None,
        use_cache: bool | None = None,
        layer_inputs: Sequence[torch.Tensor] = (),
        output_hidden_states: bool = False,
        watch: Watch | None = None,
        visual_blocks: torch.Tensor | None = None,
        previous_blocks: torch.Tensor | int = 0,
    ) -> DecoderOutput:
        """Plain causal attention over ``input_ids`` ``[B, L]`` or ``inputs_embeds`` ``[B, L, D]``.

        Args:
            attention_mask: ``[B, S]``, 0 where a token is padding; or the whole mask ``[B or 1, 1, L, S]``, bool or
                added to the scores.
            position_ids: ``[B, L]``, or ``[3, B, L]`` where positions have three dimensions; default: the tokens
                after those in the cache.
            past_key_values: grows by ``L`` tokens.
            layer_inputs: added to the hidden states behind the first layers, ``[B, L, D]`` each.
            output_hidden_states: also return what goes into every layer, and what comes out of the last norm.
            watch: is shown the queries of every layer.
            visual_blocks, previous_blocks: the rule of :mod:`videoxl.model.block_attention` instead of a mask, for
                whole sequences ``[B, L]`` that are padded at their end. With ``position_ids`` ``[B, L]``, every
                position 0 begins a sequence that sees itself alone.

        Raises ``ValueError`` unless exactly one of ``input_ids`` and ``inputs_embeds`` is given, and for a cache or a
        mask beside blocks.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        embeds = inputs_embeds if inputs_embeds is not None else self.embed_tokens(input_ids)
        cache = None if use_cache is False else past_key_values
        past, shift = (cache.get_seq_length(), getattr(cache, "shift", 0)) if cache is not None else (0, 0)
        positions = position_ids
        if positions is None or (shift and positions.ndim == 2):  # generate() counts tokens; such a cache knows better
            positions = torch.arange(past + shift, past + shift + embeds.shape[1], device=embeds.device)[None]
        if self.spec.rope.sections and positions.ndim == 2:
            positions = positions.expand(3, -1, -1)

        def tables(like: torch.Tensor) -> Pair:
            return cast(Pair, self.rotary_emb(positions, like.device, like.dtype))

        plan: AttentionPlan
        if visual_blocks is None:
            plan = CausalPlan(tables, cache, self._mask(attention_mask, embeds.shape[1]), watch)
        elif cache is not None or attention_mask is not None or watch is not None:
            raise ValueError("visual_blocks are for whole sequences: leave out the cache and attention_mask")
        else:
            packed = position_ids if position_ids is not None and position_ids.ndim == 2 else None
            plan = BlockPlan(tables, visual_blocks, int(previous_blocks), packed)
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        hidden = self.run_plan(embeds, plan, layer_inputs=layer_inputs, states=states)
        return DecoderOutput(hidden, cache, None if states is None else tuple(states))

    def run_plan(
        self,
        embeds_BLD: torch.Tensor,
        plan: AttentionPlan,
        *,
        layer_inputs: Sequence[torch.Tensor] = (),
        states: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """All layers over ``[B, L, D]`` under ``plan``, and the last norm: hidden states ``[B, L, D]``.

        ``states`` gets what goes into every layer, then the result.
        """
        hidden, kernel = embeds_BLD, attention_kernel(self.config)
        if kernel != self._kernel:
            self._kernel = kernel
            for own in self.decoder_layers:
                own.self_attn.kernel = kernel
        for number, layer in enumerate(self.layers):
            if states is not None:
                states.append(hidden)
            hidden = layer(hidden, plan)
            if number < len(layer_inputs):
                hidden = hidden + layer_inputs[number].to(hidden)
        hidden = self.norm(hidden)
        if states is not None:
            states.append(hidden)
        return cast(torch.Tensor, hidden)

    def _mask(self, given: torch.Tensor | None, new: int) -> Mask:
        if given is None or given.ndim == 4:
            return given
        return padding_mask(given, new, attention_kernel(self.config))

    def apply_rope(self, states_BKLE: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor:
        """Put positions into queries or keys; computed in float32 and rounded once."""
        return rotate_wide(states_BKLE, self.rope_tables(positions_L, states_BKLE.device))

    def rope_tables(self, positions_L: torch.Tensor, device: torch.device) -> Pair:
        """Cosines and sines of positions ``[L]`` or ``[3, L]`` in float32 on ``device``, for several calls of
        :func:`rotate_wide`."""
        if self.spec.rope.sections and positions_L.ndim == 1:
            positions_L = positions_L.expand(3, -1)
        return cast(Pair, self.rotary_emb(positions_L, device, torch.float32))

    def text_tables(self, positions: torch.Tensor, dtype: torch.dtype) -> Pair:
        """Cosines and sines ``[..., E]`` of text at positions ``[...]``, the same in all dimensions."""
        if self.spec.rope.sections:
            positions = positions.expand(3, *positions.shape)
        return cast(Pair, self.rotary_emb(positions, positions.device, dtype))

    def inverse_rope(self, states_BKLE: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor:
        """Take positions out of keys; undoes :meth:`apply_rope`.

        Rotations compose: a key at position ``p`` becomes the key at ``p - d`` by taking ``d`` out.
        """
        return rotate_wide(states_BKLE, self._inverse_tables(positions_L, states_BKLE.device))

    def _inverse_tables(self, positions_L: torch.Tensor, device: torch.device) -> Pair:
        cos, sin = self.rope_tables(positions_L, device)
        scale = self.spec.rope.scale**2
        return cos / scale, -sin / scale

    def gather_layers(
        self,
        dense: Sequence[torch.Tensor],
        coarse: Sequence[torch.Tensor],
        index_MP: torch.Tensor,
        out_XKME: torch.Tensor,
        *,
        unrotate: bool = False,
        rotate_from: int | None = None,
        positions: torch.Tensor | None = None,
        rotate_to: torch.Tensor | None = None,
    ) -> None:
        """Tokens of two sets of keys or values, in all layers at once (:func:`videoxl.model.fused.gather_layers`).

        ``unrotate``: dense tokens have the positions 0, 1, 2 ..., or ``positions``, which are taken out.
        ``rotate_from``: the first of the positions that are put into the result, or ``rotate_to``: all of them.
        """
        device, inverse, tables = out_XKME.device, None, None
        if unrotate and dense:
            held = torch.arange(dense[0].shape[2], device=device) if positions is None else positions.to(device)
            cos, sin = self._inverse_tables(held, device)
            inverse = torch.stack((cos, sin), 1)
        if rotate_from is not None:
            rotate_to = torch.arange(rotate_from, rotate_from + len(index_MP), device=device)
        if rotate_to is not None:
            places = rotate_to.to(device)
            tables = torch.stack(self.rope_tables(places, device), 1)
        gather_layers(dense, coarse, index_MP, inverse, tables, out_XKME)
