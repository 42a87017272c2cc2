"""A :class:`~videoxl.memory.kv_cache.KVCache` as transformers' ``generate`` takes it."""

from __future__ import annotations

import torch
from transformers import Cache, CacheLayerMixin

from videoxl.memory.kv_cache import KVCache, Pair, PreallocatedLayer


class GenerationLayer(CacheLayerMixin):
    """One layer of ours behind the interface of transformers' cache layers."""

    is_sliding = False
    is_croppable = True

    def __init__(self, held: PreallocatedLayer) -> None:
        super().__init__()
        self.held = held
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Ours needs none."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object) -> Pair:
        return self.held.update(key_states, value_states)

    def get_seq_length(self) -> int:
        return self.held.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.held.length + query_length, 0

    def get_max_cache_shape(self) -> int:
        return -1

    def get_max_length(self) -> int:
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens."""
        self.held.truncate(self.held.length - abs(tokens_to_remove))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if not self.held.is_empty:
            index = indices.to(self.held.device)
            self.held.replace(self.held.keys[index], self.held.values[index])

    def batch_repeat_interleave(self, repeats: int) -> None:
        if not self.held.is_empty:
            keys, values = (t.repeat_interleave(repeats, dim=0) for t in (self.held.keys, self.held.values))
            self.held.replace(keys, values)

    def reset(self) -> None:
        self.held.truncate(0)


class GenerationCache(Cache):
    """What ``generate`` goes on from. ``cache`` grows with it; beams replace its tensors."""

    def __init__(self, cache: KVCache) -> None:
        super().__init__(layers=[GenerationLayer(layer) for layer in cache.layers])
        self.shift = cache.shift
        """As of a :class:`~videoxl.memory.kv_cache.KVCache`."""
