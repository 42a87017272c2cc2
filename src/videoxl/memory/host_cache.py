"""Where keys and values of a video are kept while it is read: on the device, or in host memory (``offload``).

Both hand out the same numbers. What windows read again and again stays on the device in either: the landmarks, gathered
once as they come, and, offloaded, the tail of the sequence that windows can still reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from videoxl.memory.kv_cache import KVCache, Pair, PreallocatedLayer
from videoxl.memory.layout import RowRun


class HostLayer(PreallocatedLayer):
    """A cache layer in host memory, pinned where a GPU wants it back. A fork of it grows on the device again."""

    @classmethod
    def of(cls, layer: PreallocatedLayer, reserved: int = 0) -> HostLayer:
        """A layer with the content of another, which stays as it is."""
        host = cls(reserved)
        if not layer.is_empty:
            host.replace(layer.keys, layer.values)  # nothing spare: the first append moves them to the host
        return host

    @property
    def on_host(self) -> bool:
        return True

    def fork(self, reserved: int = 0) -> PreallocatedLayer:
        """A layer with the same content that comes to the device when it first grows, and never grows in here."""
        other = PreallocatedLayer(reserved)
        if not self.is_empty:
            other.replace(self.keys, self.values)
        return other

    def _empty(self, like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        if like.is_cuda:
            torch.cuda.synchronize(like.device)  # the old buffer, copied next, may still be written to
        return torch.empty(shape, dtype=like.dtype, device="cpu", pin_memory=like.is_cuda)

    def append(self, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor) -> None:
        """Copy new tokens over. Head by head: each is one block of memory, as fast copies want it."""
        length, total = self.length, self.length + keys_BKLE.shape[-2]
        self.writing = total
        buffer = self._room_for(total, keys_BKLE, values_BKLE)
        for held, new in ((buffer.keys, keys_BKLE), (buffer.values, values_BKLE)):
            for head in range(new.shape[1]):
                held[0, head, length:total].copy_(new[0, head], non_blocking=True)
        self.length = total

    def fetch(self, end: int, like: torch.Tensor, room: int) -> Pair:
        """The first ``end`` tokens on the device of ``like``, in tensors with places for ``room``."""
        out = []
        for held in (self.keys, self.values):
            copy = like.new_empty((1, held.shape[1], room, held.shape[-1]))
            for head in range(held.shape[1]):
                copy[0, head, :end].copy_(held[0, head, :end], non_blocking=True)
            out.append(copy)
        return out[0], out[1]


class DeviceStore:
    """Everything stays on the device that computed it."""

    def __init__(self, cache: KVCache, landmarks: Sequence[int] = ()) -> None:
        """``cache``: what was read before, with the positions of its landmarks; it grows in place."""
        self.cache = cache
        self._before = torch.tensor(list(landmarks), dtype=torch.long)
        self._landmarks = [PreallocatedLayer() for _ in cache.layers]

    def append(self, layer: int, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor, landmarks: torch.Tensor) -> None:
        """New tokens of a layer; ``landmarks`` indexes those among them that all later tokens see."""
        self._keep(layer, keys_BKLE, values_BKLE)
        kept = self._landmarks[layer]
        if kept.is_empty and len(self._before):
            old = self.cache.layers[layer]
            index = self._before.to(old.keys.device)
            kept.update(*(t.index_select(2, index).to(keys_BKLE.device) for t in (old.keys, old.values)))
        kept.update(keys_BKLE.index_select(2, landmarks), values_BKLE.index_select(2, landmarks))

    def _keep(self, layer: int, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor) -> None:
        self.cache.layers[layer].update(keys_BKLE, values_BKLE)

    def read(self, layer: int, run: RowRun) -> Pair:
        """What a run attends to: landmarks before its window, then its window."""
        if not run.window:
            return self.everything(layer, run.end)
        kept, window = self._landmarks[layer], self.span(layer, run.window, run.end)
        keys = torch.cat([kept.keys[..., : run.global_tokens, :], window[0]], dim=2)
        return keys, torch.cat([kept.values[..., : run.global_tokens, :], window[1]], dim=2)

    def span(self, layer: int, begin: int, end: int) -> Pair:
        """Tokens ``[begin, end)`` of a layer, on the device."""
        held = self.cache.layers[layer]
        return held.keys[..., begin:end, :], held.values[..., begin:end, :]

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


class HostStore(DeviceStore):
    """The video's keys and values in host memory; on the device only landmarks and the tail that windows reach.

    Timestamps see everything, so each tile brings one layer's keys and values back at a time.
    """

    def __init__(self, cache: KVCache, landmarks: Sequence[int] = (), *, tail_from: int = 0) -> None:
        """``tail_from``: the first token of ``cache`` that windows can still reach."""
        super().__init__(KVCache([HostLayer.of(layer, layer.reserved) for layer in cache.layers]), landmarks)
        self._tail_from = tail_from
        self._tails: list[Pair | None] = [None] * len(cache.layers)

    def _keep(self, layer: int, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor) -> None:
        host = self.cache.layers[layer]
        assert isinstance(host, HostLayer)
        tail = self._tails[layer]
        if tail is None and host.length:
            old = (host.keys[..., self._tail_from :, :], host.values[..., self._tail_from :, :])
            tail = (old[0].to(keys_BKLE.device), old[1].to(keys_BKLE.device))
        if tail is None:
            self._tails[layer] = (keys_BKLE, values_BKLE)
        else:
            self._tails[layer] = (torch.cat([tail[0], keys_BKLE], 2), torch.cat([tail[1], values_BKLE], 2))
        host.append(keys_BKLE, values_BKLE)

    def span(self, layer: int, begin: int, end: int) -> Pair:
        tail = self._tails[layer]
        assert tail is not None
        if begin >= self._tail_from:
            keys, values = (t[..., begin - self._tail_from : end - self._tail_from, :] for t in tail)
            return keys, values
        assert begin == 0, "only windows and everything are ever asked for"
        host = self.cache.layers[layer]
        assert isinstance(host, HostLayer)
        fetched = host.fetch(self._tail_from, tail[0], end)
        for whole, part in zip(fetched, tail):
            whole[..., self._tail_from :, :] = part[..., : end - self._tail_from, :]
        return fetched

    def forget_before(self, position: int) -> None:
        """Drop what lies before ``position`` from the device; a copy, so that its memory is really given back."""
        drop = position - self._tail_from
        if drop <= 0:
            return
        for layer, tail in enumerate(self._tails):
            if tail is not None:
                self._tails[layer] = (tail[0][..., drop:, :].clone(), tail[1][..., drop:, :].clone())
        self._tail_from = position

    def rewind(self, length: int, landmarks: int) -> None:
        super().rewind(length, landmarks)
        keep = length - self._tail_from
        for layer, tail in enumerate(self._tails):
            if tail is not None:
                self._tails[layer] = (tail[0][..., :keep, :], tail[1][..., :keep, :]) if keep else None

    def finish(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._tails = [None] * len(self._tails)
