"""A cache whose last tokens are kept apart, so that another cache can append behind the others without a copy."""

from __future__ import annotations

import threading

import torch

from videoxl.memory.kv_cache import KVCache, PreallocatedLayer


class SplitCache(KVCache):
    """The same content as ``cache``; its tokens from ``committed`` on are copied and kept apart.

    Layers that share a buffer never overwrite each other's tokens: as long as anybody holds those behind the
    ``committed`` ones, appending there copies the whole buffer. After the split nobody needs to hold them. The parts
    are joined when the content is first read, in the old buffer while it is free, else in a copy.
    """

    def __init__(self, cache: KVCache, committed: int) -> None:
        self._pending = [layer.cut(committed) for layer in cache.layers]
        self._committed = cache.fork()
        self._committed.truncate(committed)
        self._joined: KVCache | None = None
        self.positions = cache.positions
        self._lock = threading.Lock()

    def committed(self) -> KVCache:
        """Fork the committed tokens."""
        return self._committed.fork()

    @property
    def layers(self) -> list[PreallocatedLayer]:  # type: ignore[override]
        """All tokens, joined."""
        with self._lock:
            if self._joined is None:
                self._joined = self._join()
            return self._joined.layers

    @torch.inference_mode()  # the buffers were made in it, and may only be written to in it
    def _join(self) -> KVCache:
        joined = self._committed.fork()
        for layer, piece in zip(joined.layers, self._pending):
            layer.join(piece)
        return joined

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, without joining them."""
        return self._committed.nbytes + sum(piece.nbytes for piece in self._pending)


def is_offloaded(cache: KVCache) -> bool:
    """Whether keys and values wait in host memory for a device that computes elsewhere."""
    return any(layer.on_host for layer in cache.layers)
