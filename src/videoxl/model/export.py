"""A decode step as a function of tensors alone, for ``torch.export`` and full-graph compilation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from videoxl.model.attention import Pair
from videoxl.model.videoxl import VideoXLForConditionalGeneration


class DecodeStep(nn.Module):
    """One step of an answer: ids and what was read so far in, logits and what is then read out.

    Pictures are read before (``encode``, ``generate``): how many tokens they become is decided by looking at ids, which
    a graph cannot do. ``K`` key/value heads, ``S`` tokens so far, ``E`` head width.
    """

    def __init__(self, model: VideoXLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """``[B, L]`` new ids behind rotated keys and values ``[B, K, S, E]`` of each layer.

        Returns logits ``[B, V]`` of the token that follows, and the keys and values ``[B, K, S + L, E]``.
        """
        cache = PlainCache(keys, values)
        logits_BV = self.model.next_logits(input_ids, cache)
        return logits_BV, cache.keys, cache.values


class PlainCache:
    """Keys and values of all layers as lists (a :class:`~videoxl.model.attention.TokenCache`)."""

    def __init__(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        self.keys, self.values = list(keys), list(values)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, /) -> Pair:
        """Append ``[B, K, L, E]`` to a layer; returns all of its keys and values."""
        self.keys[layer_idx] = torch.cat((self.keys[layer_idx], key_states), dim=2)
        self.values[layer_idx] = torch.cat((self.values[layer_idx], value_states), dim=2)
        return self.keys[layer_idx], self.values[layer_idx]

    def get_seq_length(self) -> int:
        """Tokens in the first layer."""
        return self.keys[0].shape[2]
