"""Keys and values of a language model, kept so that many questions can start from the same video.

``B`` batch, ``K`` key/value heads, ``S`` tokens in the cache, ``L`` new tokens, ``E`` head width.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class GrowingLayer(DynamicLayer):
    """A transformers cache layer that appends in place while there is room, and shares its content with its forks.

    ``DynamicLayer`` copies everything it holds for every new token. Here a buffer with spare room is written in place;
    only the layer that made a buffer writes to it, so the tensors a fork was given never change under it.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reserved = 0
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append ``[B, K, L, E]``; returns all keys and values ``[B, K, S + L, E]``, views of the buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = self.get_seq_length()
        total = seen + key_states.shape[-2]
        keys, values = self._room_for(total, seen, key_states, value_states)
        keys[..., seen:total, :] = key_states
        values[..., seen:total, :] = value_states
        self.keys, self.values = keys[..., :total, :], values[..., :total, :]
        return self.keys, self.values

    def _room_for(
        self, total: int, seen: int, like_keys: torch.Tensor, like_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Buffers of at least ``total`` tokens that hold the first ``seen`` ones and belong to this layer alone."""
        if self._buffers is not None and self._buffers[0].shape[-2] >= total and self._is_view_of_buffers(seen):
            return self._buffers
        room = max(total, self.reserved) if self.reserved else total + max(64, total // 8)
        fresh = []
        for like, held in ((like_keys, self.keys), (like_values, self.values)):
            batch, heads, _, width = like.shape
            buffer = like.new_empty(batch, heads, max(room, total), width)
            if seen:
                buffer[..., :seen, :] = held
            fresh.append(buffer)
        self._buffers = (fresh[0], fresh[1])
        return self._buffers

    def _is_view_of_buffers(self, seen: int) -> bool:
        """False once beam search or cropping to another batch has replaced the tensors."""
        assert self._buffers is not None
        same_batch = not seen or self.keys.shape[0] == self._buffers[0].shape[0]
        return same_batch and (not seen or self.keys.data_ptr() == self._buffers[0].data_ptr())

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens; does nothing to a shorter layer."""
        if self.get_seq_length() > length:
            self.crop(length - self.get_seq_length())

    def fork(self, reserve: int = 0) -> GrowingLayer:
        """A layer with the same content that copies it when it first grows, to ``reserve`` tokens of room."""
        other = GrowingLayer()
        if self.is_initialized:
            other.dtype, other.device, other.is_initialized = self.dtype, self.device, True
            other.keys, other.values = self.keys, self.values
        other.reserved = reserve
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held (not of spare room)."""
        if not self.is_initialized:
            return 0
        return self.keys.numel() * self.keys.element_size() + self.values.numel() * self.values.element_size()


class KVCache(Cache):
    """One :class:`GrowingLayer` per layer of the language model; usable by transformers' ``generate``."""

    layers: list[GrowingLayer]

    def __init__(self, num_layers: int, *, reserve: int = 0) -> None:
        """``reserve``: tokens expected in the end, so that the buffers are made once."""
        layers = [GrowingLayer() for _ in range(num_layers)]
        for layer in layers:
            layer.reserved = reserve
        super().__init__(layers=layers)

    def fork(self, *, reserve: int = 0) -> KVCache:
        """An independent cache that starts with the same content; nothing is copied until it grows."""
        other = KVCache(0)
        other.layers = [layer.fork(reserve) for layer in self.layers]
        return other

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens of every layer."""
        for layer in self.layers:
            layer.truncate(length)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held."""
        return sum(layer.nbytes for layer in self.layers)
