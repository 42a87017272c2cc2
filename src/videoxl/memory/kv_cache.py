"""Keys and values of a language model, kept so that many questions can start from the same video.

``B`` batch, ``K`` key/value heads, ``S`` tokens in the cache, ``L`` new tokens, ``E`` head width.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Literal

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

Which = Literal["keys", "values"]
Tier = Literal["device", "host", "disk"]


class _Room:
    """Buffers with spare room at the end, shared by the layers that began with the same content."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self._layers: list[weakref.ref[GrowingLayer]] = []
        self._lock = threading.Lock()  # questions of several threads come and go; a WeakSet would lose some of them

    def join(self, layer: GrowingLayer) -> None:
        with self._lock:
            self._layers.append(weakref.ref(layer))

    def leave(self, layer: GrowingLayer) -> None:
        with self._lock:
            self._layers = [one for one in self._layers if one() not in (None, layer)]

    def claim(self, layer: GrowingLayer, seen: int, total: int) -> bool:
        """Whether ``layer`` may write tokens ``[seen, total)`` here: nobody else alive has any there."""
        with self._lock:
            self._layers = [one for one in self._layers if one() is not None]
            others = (other for one in self._layers if (other := one()) is not None and other is not layer)
            free = self.keys.shape[-2] >= total and all(other.claimed <= seen for other in others)
            if free:
                layer.claimed = total
        return free


class GrowingLayer(DynamicLayer):
    """A transformers cache layer that appends in place while there is room, and shares its content with its forks.

    ``DynamicLayer`` copies everything it holds for every new token. Here a buffer with spare room is written in place.
    Forks share the buffer: whoever comes first grows into the spare room, others copy for as long as it lives. So
    questions asked one after the other copy nothing, and no fork ever changes what another one holds.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reserved = 0
        self.claimed = 0
        self._room: _Room | None = None

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
        """Buffers that hold the first ``seen`` tokens and in which ``[seen, total)`` belongs to this layer alone."""
        held_in = self._room
        if held_in and self._is_view_of(held_in, seen, len(like_keys)) and held_in.claim(self, seen, total):
            return held_in.keys, held_in.values
        room = max(total, self.reserved) if self.reserved else total + max(64, total // 8)
        fresh = []
        for like, held in ((like_keys, self.keys), (like_values, self.values)):
            batch, heads, _, width = like.shape
            buffer = self._empty(like, (batch, heads, room, width))
            if seen:
                buffer[..., :seen, :] = held
            fresh.append(buffer)
        self._move_to(_Room(fresh[0], fresh[1]), total)
        return fresh[0], fresh[1]

    def _move_to(self, room: _Room | None, claimed: int) -> None:
        if self._room is not None:
            self._room.leave(self)
        self._room, self.claimed = room, claimed
        if room is not None:
            room.join(self)

    def _empty(self, like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return like.new_empty(shape)

    def _is_view_of(self, room: _Room, seen: int, batch: int) -> bool:
        """False once beam search or cropping to another batch has replaced the tensors."""
        if len(room.keys) != batch:
            return False
        return not seen or (len(self.keys) == batch and self.keys.data_ptr() == room.keys.data_ptr())

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens (a negative number, as transformers wants it)."""
        super().crop(tokens_to_remove)
        self.claimed = self.get_seq_length()

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens; does nothing to a shorter layer."""
        if self.get_seq_length() > length:
            self.crop(length - self.get_seq_length())

    def fork(self, reserve: int = 0) -> GrowingLayer:
        """A layer with the same content that grows on its own; copying, if it must, to ``reserve`` tokens of room."""
        other = GrowingLayer()
        if self.is_initialized:
            other.dtype, other.device, other.is_initialized = self.dtype, self.device, True
            other.keys, other.values = self.keys, self.values
            other._move_to(self._room, self.get_seq_length())
        other.reserved = reserve
        return other

    @classmethod
    def holding(cls, keys: torch.Tensor, values: torch.Tensor, length: int) -> GrowingLayer:
        """A layer of the first ``length`` tokens of two buffers, which it grows into."""
        layer = cls()
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        layer.keys, layer.values = keys[..., :length, :], values[..., :length, :]
        layer._move_to(_Room(keys, values), length)
        return layer

    def select(self, which: Which, positions: torch.Tensor) -> torch.Tensor:
        """Keys or values of some tokens, ``[1, K, len(positions), E]``, on the device that holds them."""
        held: torch.Tensor = getattr(self, which)
        return held.index_select(2, positions.to(held.device))

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held (not of spare room)."""
        if not self.is_initialized:
            return 0
        return self.keys.numel() * self.keys.element_size() + self.values.numel() * self.values.element_size()

    @property
    def tier(self) -> tuple[Tier, int]:
        """Where the content is, and its bytes there."""
        on_host = not self.is_initialized or self.keys.device.type == "cpu"
        return "host" if on_host else "device", self.nbytes


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
