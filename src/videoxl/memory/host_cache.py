"""Where keys and values of a video are kept while it is read: on the device, or in host memory (``offload``).

Both hand out the same numbers. What windows read again and again stays on the device in either: the landmarks, gathered
once as they come, and, offloaded, the tail of the sequence that windows can still reach.

Offloaded, keys and values of a layer are one *block* ``[S, 2, K, E]``, token after token: what was read so far is one
piece of memory, and one copy moves it. Copies run on a stream of their own while the device computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from videoxl.memory.kv_cache import KVCache, Pair, PreallocatedLayer, SharedBuffer
from videoxl.memory.layout import RowRun

TOKENS_AT_ONCE = 1 << 16
"""Tokens of a block that move to the device at once when it is laid out anew there; it bounds the second copy."""


def pair_of(block_S2KE: torch.Tensor) -> Pair:
    """Keys and values ``[1, K, S, E]``, views of a block."""
    keys, values = block_S2KE.unbind(1)
    return keys.transpose(0, 1)[None], values.transpose(0, 1)[None]


def block_of(keys_1KLE: torch.Tensor, values_1KLE: torch.Tensor) -> torch.Tensor:
    """A block ``[L, 2, K, E]`` of keys and values."""
    return torch.stack((keys_1KLE[0].transpose(0, 1), values_1KLE[0].transpose(0, 1)), dim=1)


class HostBuffer(SharedBuffer):
    """A block in host memory. Only a :class:`HostLayer` appends to it."""

    def __init__(self, block_S2KE: torch.Tensor) -> None:
        super().__init__(*pair_of(block_S2KE))
        self.block = block_S2KE

    def claim(self, layer: PreallocatedLayer, length: int, total: int) -> bool:
        return isinstance(layer, HostLayer) and super().claim(layer, length, total)


class HostLayer(PreallocatedLayer):
    """A cache layer in host memory, pinned where a GPU wants it back. A fork of it grows on the device again."""

    @classmethod
    def of(cls, layer: PreallocatedLayer, reserved: int = 0) -> HostLayer:
        """A layer with the content of another, which stays as it is. Of one in host memory it goes on in place."""
        host = cls(reserved)
        if not layer.is_empty and isinstance(layer.buffer(), HostBuffer):
            host._attach(layer.buffer(), layer.length)
        elif not layer.is_empty:
            host.replace(layer.keys, layer.values)  # nothing spare: the first append moves them to the host
        return host

    @property
    def on_host(self) -> bool:
        return True

    def fork(self, reserved: int = 0) -> PreallocatedLayer:
        """A layer with the same content that comes to the device when it first grows, and never grows in here."""
        return _on_its_way(self, reserved)

    def append(self, block_L2KE: torch.Tensor) -> None:
        """Copy new tokens over, on the current stream; the host does not wait."""
        length, total = self.length, self.length + len(block_L2KE)
        self.writing = total
        buffer = self._room_for(total, *pair_of(block_L2KE))
        assert isinstance(buffer, HostBuffer)
        buffer.block[length:total].copy_(block_L2KE, non_blocking=True)
        self.length = total

    def tokens(self, begin: int, end: int) -> torch.Tensor:
        """Some tokens as a block ``[end - begin, 2, K, E]``; a view, once anything was appended here."""
        buffer = self.buffer()
        if isinstance(buffer, HostBuffer):
            return buffer.block[begin:end]
        return block_of(buffer.keys[..., begin:end, :], buffer.values[..., begin:end, :])

    def _new_buffer(self, capacity: int, like_keys: torch.Tensor, like_values: torch.Tensor) -> SharedBuffer:
        shape = (capacity, 2, like_keys.shape[1], like_keys.shape[-1])
        return HostBuffer(torch.empty(shape, dtype=like_keys.dtype, device="cpu", pin_memory=like_keys.is_cuda))

    def _fill(self, buffer: SharedBuffer) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the old buffer may still be written to
        super()._fill(buffer)


class LayerOnItsWay(PreallocatedLayer):
    """A fork of a :class:`HostLayer`: it reads what is in host memory, until it grows in a buffer on the device."""

    _begun_in: SharedBuffer | None = None

    @property
    def on_host(self) -> bool:
        return self._buffer is not None and self._buffer is self._begun_in

    def fork(self, reserved: int = 0) -> PreallocatedLayer:
        return _on_its_way(self, reserved) if self.on_host else super().fork(reserved)

    def _fill(self, buffer: SharedBuffer) -> None:
        held = self.buffer()
        if not isinstance(held, HostBuffer):
            super()._fill(buffer)
            return
        for first in range(0, self.length, TOKENS_AT_ONCE):
            end = min(first + TOKENS_AT_ONCE, self.length)
            keys, values = pair_of(held.block[first:end].to(buffer.keys.device, non_blocking=True))
            buffer.keys[..., first:end, :] = keys
            buffer.values[..., first:end, :] = values


def _on_its_way(layer: PreallocatedLayer, reserved: int) -> PreallocatedLayer:
    other = LayerOnItsWay(reserved)
    if not layer.is_empty:
        buffer = other._begun_in = layer.buffer()
        buffer.release(layer)
        other._attach(buffer, layer.length)
    return other


class DeviceStore:
    """Everything stays on the device that computed it."""

    def __init__(self, cache: KVCache, landmarks: Sequence[int] = ()) -> None:
        """``cache``: what was read before, with the positions of its landmarks; it grows in place."""
        self.cache = cache
        self._before = torch.tensor(list(landmarks), dtype=torch.long)
        self._landmarks = [PreallocatedLayer() for _ in cache.layers]

    def begin(self, end: int, layers: int) -> None:
        """A tile begins that ends at token ``end``; the first ``layers`` layers will ask for :meth:`everything`."""

    def append(self, layer: int, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor, landmarks: torch.Tensor) -> None:
        """New tokens of a layer; ``landmarks`` indexes those among them that all later tokens see."""
        kept, held, begin = self._landmarks[layer], self.cache.layers[layer], self.cache.layers[layer].length
        if kept.is_empty and len(self._before):
            keys, values = held.select("keys", self._before), held.select("values", self._before)
            kept.update(keys.to(keys_BKLE.device), values.to(keys_BKLE.device))
        self._keep(layer, keys_BKLE, values_BKLE)
        if held.is_packed:  # what all later tokens see is rounded as the rest is
            keys_BKLE, values_BKLE = held.span(begin, held.length)
        kept.update(keys_BKLE.index_select(2, landmarks), values_BKLE.index_select(2, landmarks))

    def _keep(self, layer: int, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor) -> None:
        self.cache.layers[layer].keep(keys_BKLE, values_BKLE)

    def read(self, layer: int, run: RowRun) -> Pair:
        """What a run attends to: landmarks before its window, then its window."""
        if not run.window:
            return self.everything(layer, run.end)
        kept, window = self._landmarks[layer], self.span(layer, run.window, run.end)
        keys = torch.cat([kept.keys[..., : run.global_tokens, :], window[0]], dim=2)
        return keys, torch.cat([kept.values[..., : run.global_tokens, :], window[1]], dim=2)

    def span(self, layer: int, begin: int, end: int) -> Pair:
        """Tokens ``[begin, end)`` of a layer, on the device."""
        return self.cache.layers[layer].span(begin, end)

    def everything(self, layer: int, end: int) -> Pair:
        """The first ``end`` tokens of a layer, on the device."""
        return self.span(layer, 0, end)

    def forget_before(self, position: int) -> None:
        """No window will reach back behind ``position``."""

    def rewind(self, length: int, landmarks: int) -> None:
        """Forget all but the first ``length`` tokens and ``landmarks`` landmarks, in whatever layers have more."""
        self.cache.truncate(length)
        for kept in self._landmarks:
            kept.truncate(landmarks)

    def finish(self) -> None:
        """Nothing is under way any more when this returns."""


@dataclass(frozen=True)
class _Tail:
    """The last tokens of a layer, on the device: a block of those from ``begin`` on."""

    begin: int
    block: torch.Tensor

    def tokens(self, begin: int, end: int) -> torch.Tensor:
        return self.block[begin - self.begin : end - self.begin]


class HostStore(DeviceStore):
    """The video's keys and values in host memory; on the device only landmarks and the tail that windows reach.

    Timestamps see everything. So each tile brings what lies before the tail back once, a layer at a time, while the
    layer before it computes.
    """

    def __init__(self, cache: KVCache, landmarks: Sequence[int] = (), *, tail_from: int = 0) -> None:
        """``tail_from``: the first token of ``cache`` that windows can still reach."""
        self._layers = [HostLayer.of(layer, layer.reserved) for layer in cache.layers]
        super().__init__(KVCache(self._layers).placed(cache.positions), landmarks)
        self._tail_from = tail_from
        self._tails: list[_Tail | None] = [None] * len(self._layers)
        self._lanes: dict[torch.device, _Lane] = {}
        self._devices: list[torch.device | None] = [None] * len(self._layers)
        self._end, self._readers = 0, 0

    def begin(self, end: int, layers: int) -> None:
        self._end, self._readers = end, layers
        self._fetch(0)

    def _fetch(self, layer: int) -> None:
        """Start to bring back what lies before the tail, where the layer is going to ask for it."""
        device = self._devices[layer] if layer < self._readers else None
        if device is not None and device.type == "cuda" and self._tail_from:
            self._lane(device).fetch(layer, self._layers[layer], self._tail_from, self._end)

    def _lane(self, device: torch.device) -> _Lane:
        if device not in self._lanes:
            self._lanes[device] = _Lane(device)
        return self._lanes[device]

    def _keep(self, layer: int, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor) -> None:
        device, block = keys_BKLE.device, block_of(keys_BKLE, values_BKLE)
        self._devices[layer] = device
        old = self._old_tail(layer, device)
        self._tails[layer] = _Tail(self._tail_from, block if old is None else torch.cat([old, block]))
        if device.type == "cuda":
            self._lane(device).append(self._layers[layer], block)
            self._fetch(layer + 1)
        else:
            self._layers[layer].append(block)

    def _old_tail(self, layer: int, device: torch.device) -> torch.Tensor | None:
        """What windows still reach of the tokens before a tile."""
        tail, host = self._tails[layer], self._layers[layer]
        if tail is not None:
            return tail.block
        if host.length == self._tail_from:
            return None
        if device.type == "cuda":
            self._lane(device).join()
        return host.tokens(self._tail_from, host.length).to(device)

    def span(self, layer: int, begin: int, end: int) -> Pair:
        tail = self._tails[layer]
        assert tail is not None
        if begin >= tail.begin:
            return pair_of(tail.tokens(begin, end))
        assert begin == 0, "only windows and everything are ever asked for"
        host, device = self._layers[layer], tail.block.device
        if device.type != "cuda":
            return pair_of(host.tokens(0, end))  # nothing needs to come back
        whole = self._lane(device).take(layer, host, tail.begin, self._end)
        whole[tail.begin : end].copy_(tail.tokens(tail.begin, end))
        return pair_of(whole[:end])

    def forget_before(self, position: int) -> None:
        """Drop what lies before ``position`` from the device; a copy, so that its memory is really given back."""
        if position <= self._tail_from:
            return
        self._tail_from = position
        for layer, tail in enumerate(self._tails):
            if tail is not None:
                self._tails[layer] = _Tail(position, tail.block[position - tail.begin :].clone())

    def rewind(self, length: int, landmarks: int) -> None:
        super().rewind(length, landmarks)
        self._lanes.clear()
        for layer, tail in enumerate(self._tails):
            if tail is not None:
                keep = length - tail.begin
                self._tails[layer] = _Tail(tail.begin, tail.block[:keep]) if keep > 0 else None

    def finish(self) -> None:
        for lane in self._lanes.values():
            lane.stream.synchronize()
        self._lanes.clear()
        self._tails = [None] * len(self._tails)


class _Lane:
    """The way between host and one GPU, beside what it computes: a stream, and two buffers that past tokens come into.

    While a layer reads one, the other is filled for the layer after it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = _side_stream(device)
        self._buffers: list[torch.Tensor | None] = [None, None]
        self._turn = 0
        self._coming: dict[int, tuple[torch.Tensor, torch.cuda.Event]] = {}
        """Per layer, where its tokens come to and what happens when they are there."""

    def append(self, host: HostLayer, block_L2KE: torch.Tensor) -> None:
        """Copy new tokens to the host behind what the device was asked to compute so far."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            host.append(block_L2KE)
        block_L2KE.record_stream(self.stream)

    def fetch(self, layer: int, host: HostLayer, count: int, room: int) -> None:
        """Start to copy the first ``count`` tokens of a layer into a buffer with places for ``room``."""
        buffer = self._next_buffer(host, room)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # the buffer is not read any more
        with torch.cuda.stream(self.stream):
            buffer[:count].copy_(host.tokens(0, count), non_blocking=True)
            event = torch.cuda.Event()
            event.record(self.stream)
        self._coming[layer] = (buffer, event)

    def take(self, layer: int, host: HostLayer, count: int, room: int) -> torch.Tensor:
        """The buffer that holds the tokens of a layer, as soon as they are there."""
        if layer not in self._coming:
            self.fetch(layer, host, count, room)
        buffer, event = self._coming.pop(layer)
        torch.cuda.current_stream(self.device).wait_event(event)
        return buffer

    def join(self) -> None:
        """Let the device go on only when all copies asked for so far are done."""
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _next_buffer(self, host: HostLayer, room: int) -> torch.Tensor:
        self._turn = 1 - self._turn
        buffer = self._buffers[self._turn]
        if buffer is None or len(buffer) < room:
            self._buffers[self._turn] = None  # let go of it first
            like = host.tokens(0, 0)
            capacity = host.reserved if host.reserved >= room else room * 9 // 8
            buffer = self._buffers[self._turn] = torch.empty(
                (capacity, *like.shape[1:]), dtype=like.dtype, device=self.device
            )
            buffer.record_stream(self.stream)
        return buffer


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all that is copied from and to a device, so that no two copies are ever out of order."""
    return torch.cuda.Stream(device)
