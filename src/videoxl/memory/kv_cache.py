"""Keys and values of a language model, kept so that many questions can start from the same video.

``B`` batch, ``K`` key/value heads, ``S`` tokens in the cache, ``L`` new tokens, ``E`` head width.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Literal, Protocol, Self

import torch

from videoxl.memory.positions import Positions

Which = Literal["keys", "values"]
Tier = Literal["device", "host", "disk"]
Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values ``[B, K, S, E]``."""
SPARE_TOKENS = 2048
"""Tokens of spare capacity behind a video, so that questions need not copy it."""


class Rope(Protocol):
    """Rotary position embedding of a language model: puts positions into keys ``[B, K, S, E]``, takes them out.

    Positions are ``[S]``, or ``[3, S]`` where a model has three dimensions. It is computed in fp32.
    """

    def apply_rope(self, states_BKLE: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor: ...
    def inverse_rope(self, states_BKLE: torch.Tensor, positions_L: torch.Tensor) -> torch.Tensor: ...

    def gather_layers(
        self,
        dense: Sequence[torch.Tensor],
        coarse: Sequence[torch.Tensor],
        index_MP: torch.Tensor,
        out_XKME: torch.Tensor,
        *,
        unrotate: bool = ...,
        rotate_from: int | None = ...,
        positions: torch.Tensor | None = ...,
        rotate_to: torch.Tensor | None = ...,
    ) -> None:
        """Means of tokens of two sets, ``[1, K, S, E]`` per layer, in all layers at once.

        ``index_MP`` names what each is the mean of: a dense token, ``-2 - n`` for coarse token ``n``, -1 for nothing.
        ``unrotate`` takes the positions 0, 1, 2 ... out of dense tokens, or ``positions``; ``rotate_from`` is the first
        put in, ``rotate_to`` are all of them.
        """
        ...


class SharedBuffer:
    """Tensors with spare capacity at the end, shared by the layers that began with the same content."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self._layers: list[weakref.ref[PreallocatedLayer]] = []
        self._lock = threading.Lock()  # questions of several threads come and go; a WeakSet would lose some of them

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self.keys.shape[-2]

    @property
    def addresses(self) -> tuple[int, int]:
        """Where keys and values are."""
        return self.keys.data_ptr(), self.values.data_ptr()

    @property
    def in_use(self) -> bool:
        """Whether a layer that is alive holds tokens here."""
        with self._lock:
            return any(one() is not None for one in self._layers)

    def join(self, layer: PreallocatedLayer) -> None:
        with self._lock:
            self._layers.append(weakref.ref(layer))

    def leave(self, layer: PreallocatedLayer) -> None:
        with self._lock:
            self._layers = [one for one in self._layers if one() not in (None, layer)]

    def claim(self, layer: PreallocatedLayer, length: int, total: int) -> bool:
        """Whether ``layer`` may write tokens ``[length, total)`` here: no other layer alive has claimed any of them.

        It then claims all spare capacity, so that it need not ask again for every token; :meth:`release` gives back
        what it did not use.
        """
        with self._lock:
            self._layers = [one for one in self._layers if one() is not None]
            others = (other for one in self._layers if (other := one()) is not None and other is not layer)
            free = self.capacity >= total and all(other.claimed <= length for other in others)
            if free:
                layer.claimed = self.capacity
        return free

    def release(self, layer: PreallocatedLayer) -> None:
        """Let other layers have the capacity that ``layer`` does not use."""
        with self._lock:
            layer.claimed = max(layer.length, layer.writing)  # it may be writing at this moment


class PreallocatedLayer:
    """One layer of a cache: it appends in place while there is spare capacity, and shares its content with its forks.

    The first fork to append reuses the spare capacity; the others copy while it lives. So questions asked one after
    the other copy nothing, and no fork ever changes what another one holds. While gradients are recorded every append
    makes a new tensor.
    """

    def __init__(self, reserved: int = 0) -> None:
        """``reserved``: tokens expected in the end, so that the buffer is made once."""
        self.reserved = reserved
        self.length = 0
        self.claimed = 0
        self.writing = 0
        """Tokens there will be when the write under way is done."""
        self._buffer: SharedBuffer | None = None

    @classmethod
    def holding(cls, keys: torch.Tensor, values: torch.Tensor, length: int | None = None) -> PreallocatedLayer:
        """A layer of the first ``length`` tokens (all by default) of two tensors; what is left is spare capacity."""
        return cls.on(SharedBuffer(keys, values), keys.shape[-2] if length is None else length)

    @classmethod
    def on(cls, buffer: SharedBuffer, length: int) -> PreallocatedLayer:
        """A layer of the first ``length`` tokens of a buffer; what is left is spare capacity."""
        layer = cls()
        layer._attach(buffer, length)
        return layer

    # ---------------------------------------------------------------------------------------------------- reading

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written; then there is no dtype, device or head width either."""
        return self._buffer is None

    @property
    def keys(self) -> torch.Tensor:
        """``[B, K, S, E]``, a view. Raises ``ValueError`` for a layer that nothing was written to."""
        return self.buffer().keys[..., : self.length, :]

    @property
    def values(self) -> torch.Tensor:
        """``[B, K, S, E]``, a view. Raises ``ValueError`` for a layer that nothing was written to."""
        return self.buffer().values[..., : self.length, :]

    def buffer(self) -> SharedBuffer:
        if self._buffer is None:
            raise ValueError("this cache layer is empty: nothing was written to it yet")
        return self._buffer

    @property
    def dtype(self) -> torch.dtype:
        return self.buffer().keys.dtype

    @property
    def device(self) -> torch.device:
        """Where the content is."""
        return self.buffer().keys.device

    @property
    def on_host(self) -> bool:
        """Whether the content waits in host memory for a device that computes elsewhere."""
        return False

    @property
    def is_packed(self) -> bool:
        """Whether the buffers hold keys and values otherwise than attention reads them."""
        return False

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held, without spare capacity."""
        return 0 if self.is_empty else _nbytes(self.keys) + _nbytes(self.values)

    @property
    def tier(self) -> tuple[Tier, int]:
        """Where the content is, and its bytes there."""
        on_host = self.is_empty or self.device.type == "cpu"
        return "host" if on_host else "device", self.nbytes

    def span(self, begin: int, end: int) -> Pair:
        """Keys and values of the tokens ``[begin, end)``."""
        return self.keys[..., begin:end, :], self.values[..., begin:end, :]

    def select(self, which: Which, positions: torch.Tensor) -> torch.Tensor:
        """Keys or values of some tokens, ``[B, K, len(positions), E]``, on the device that holds them."""
        held = self.keys if which == "keys" else self.values
        return held.index_select(2, positions.to(held.device))

    # ---------------------------------------------------------------------------------------------------- growing

    def update(self, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor) -> Pair:
        """Append; returns all keys and values ``[B, K, S + L, E]``, views of the buffer."""
        if torch.is_grad_enabled() and (keys_BKLE.requires_grad or values_BKLE.requires_grad or self._records()):
            self._concatenate(keys_BKLE, values_BKLE)
            return self.keys, self.values
        length, total = self.length, self.length + keys_BKLE.shape[-2]
        self.writing = total
        buffer = self._room_for(total, keys_BKLE, values_BKLE)
        buffer.keys[..., length:total, :] = keys_BKLE
        buffer.values[..., length:total, :] = values_BKLE
        self.length = total
        return buffer.keys[..., :total, :], buffer.values[..., :total, :]

    def make_room(self, total: int) -> SharedBuffer:
        """A buffer that holds this layer's tokens, and in which those up to ``total`` belong to this layer alone.

        Whoever writes into it says so with :meth:`grow_to`. Raises ``ValueError`` for a layer that is empty.
        """
        buffer = self.buffer()
        self.writing = max(self.length, total)
        return self._room_for(total, buffer.keys, buffer.values)

    def grow_to(self, length: int) -> None:
        """The tokens before ``length`` were written into the buffer. Room behind them stays this layer's."""
        self.length = length

    def keep(self, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor) -> None:
        """Append, for whoever does not need all keys and values now."""
        self.update(keys_BKLE, values_BKLE)

    def _records(self) -> bool:
        return not self.is_empty and (self.keys.requires_grad or self.values.requires_grad)

    def _concatenate(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        if self.length:
            keys, values = torch.cat([self.keys, keys], dim=-2), torch.cat([self.values, values], dim=-2)
        self.replace(keys, values)

    def _room_for(self, total: int, like_keys: torch.Tensor, like_values: torch.Tensor) -> SharedBuffer:
        """A buffer that holds this layer's tokens and in which those up to ``total`` belong to this layer alone."""
        if not self.is_empty:
            buffer = self.buffer()
            if len(buffer.keys) == len(like_keys) and (total <= self.claimed or buffer.claim(self, self.length, total)):
                return buffer
        capacity = max(total, self.reserved) if self.reserved else total + max(64, total // 8)
        buffer = self._new_buffer(capacity, like_keys, like_values)
        if self.length:
            self._fill(buffer)
        self._attach(buffer, self.length)
        self.claimed = capacity
        return buffer

    def _attach(self, buffer: SharedBuffer, length: int) -> None:
        """Hold the first ``length`` tokens of ``buffer`` from now on."""
        if self._buffer is not None:
            self._buffer.leave(self)
        self._buffer, self.length, self.claimed, self.writing = buffer, length, length, length
        buffer.join(self)

    def _new_buffer(self, capacity: int, like_keys: torch.Tensor, like_values: torch.Tensor) -> SharedBuffer:
        """An empty buffer for ``capacity`` tokens such as these."""
        keys, values = (like.new_empty((*like.shape[:2], capacity, like.shape[3])) for like in (like_keys, like_values))
        return SharedBuffer(keys, values)

    def _fill(self, buffer: SharedBuffer) -> None:
        """Copy this layer's tokens to the begin of ``buffer``."""
        buffer.keys[..., : self.length, :] = self.keys
        buffer.values[..., : self.length, :] = self.values

    def replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold other tensors ``[B, K, S, E]`` instead."""
        self._attach(SharedBuffer(keys, values), keys.shape[-2])

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens, or none of a shorter layer. Room behind them is given back."""
        if self.length > length:
            self.buffer()  # a layer of a file reads it now
            self.length = length
        if self._buffer is not None:
            self.writing = self.length
            self._buffer.release(self)

    def fork(self, reserved: int = 0) -> PreallocatedLayer:
        """A layer with the same content that grows on its own; copying, if it must, to ``reserved`` tokens."""
        other = PreallocatedLayer(reserved)
        if not self.is_empty:
            buffer = self.buffer()
            buffer.release(self)
            other._attach(buffer, self.length)
        return other

    def empty(self, reserved: int = 0) -> PreallocatedLayer:
        """An empty layer of the same kind, on the device."""
        return PreallocatedLayer(reserved)

    def cut(self, begin: int) -> PreallocatedLayer:
        """A copy of the tokens from ``begin`` on, to be given to :meth:`join`."""
        keys, values = self.span(begin, self.length)
        return PreallocatedLayer.holding(keys.clone(), values.clone())

    def join(self, piece: PreallocatedLayer) -> None:
        """Append what :meth:`cut` returned."""
        self.update(piece.keys, piece.values)


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class KVCache:
    """The layers of one sequence: what the language model appends to, and what is forked for every question."""

    positions: Positions | None = None
    """Of the first tokens, where positions have three dimensions; None: a token's position is its index."""

    def __init__(self, layers: int | Sequence[PreallocatedLayer], *, reserve: int = 0) -> None:
        """``layers``: the layers, or how many empty ones. ``reserve``: tokens expected in the end."""
        made = [PreallocatedLayer(reserve) for _ in range(layers)] if isinstance(layers, int) else layers
        self.layers: list[PreallocatedLayer] = list(made)

    @property
    def shift(self) -> int:
        """Added to the index of a token of text, it gives the token's position."""
        return 0 if self.positions is None else self.positions.shift

    def positions_at(self, index_L: torch.Tensor) -> torch.Tensor:
        """Positions of tokens by their index: ``[L]``, or ``[3, L]``."""
        return index_L if self.positions is None else self.positions.at(index_L)

    def placed(self, positions: Positions | None) -> Self:
        """This cache, whose first tokens have these positions."""
        self.positions = positions
        return self

    def update(self, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor, layer: int) -> Pair:
        """Append to a layer; returns all of its keys and values ``[B, K, S, E]``."""
        return self.layers[layer].update(keys_BKLE, values_BKLE)

    def make_room(self, total: int) -> list[Pair]:
        """Of each layer the whole buffers ``[B, K, capacity, E]``: places up to ``total`` are this cache's alone."""
        buffers = [layer.make_room(total) for layer in self.layers]
        return [(buffer.keys, buffer.values) for buffer in buffers]

    def grow_to(self, length: int) -> None:
        """Every layer's tokens before ``length`` were written into its buffer."""
        for layer in self.layers:
            layer.grow_to(length)

    def __len__(self) -> int:
        """Tokens in the first layer."""
        return self.layers[0].length if self.layers else 0

    def get_seq_length(self) -> int:
        """Tokens in the first layer, by the name that transformers' caches have for it."""
        return len(self)

    def fork(self, *, reserve: int = 0) -> KVCache:
        """An independent cache that starts with the same content; nothing is copied until it grows."""
        return KVCache([layer.fork(reserve) for layer in self.layers]).placed(self.positions)

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens of every layer."""
        for layer in self.layers:
            layer.truncate(length)
        if self.positions is not None:
            self.positions = self.positions.cut(length)

    def truncate_layer(self, layer: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of one layer."""
        self.layers[layer].truncate(length)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held."""
        return sum(layer.nbytes for layer in self.layers)
