"""How visual tokens get into the cache; one writer for every prefill strategy.

A writer is handed the visual tokens of whole groups, in order, and runs the language model over them when it sees fit.
What is in its cache at the end, and the ids that stand for it, is what questions are asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from videoxl.inference.prompt import VisualSpan
from videoxl.memory.kv_cache import KVCache


class CacheWriter(Protocol):
    """What :class:`~videoxl.inference.prefill.Prefill` hands visual tokens to."""

    cache: KVCache
    """Rotated keys at contiguous positions, and values."""

    @property
    def ids(self) -> Sequence[int]:
        """One id per token in the cache; visual tokens as placeholders."""
        ...

    def add(self, span: VisualSpan, tokens_PD: torch.Tensor) -> None:
        """The next groups: where their timestamps and visual tokens stand, and the visual tokens."""
        ...

    def finish(self) -> None:
        """No more groups follow."""
        ...


class FullWriter:
    """Plain causal attention (SPEC: "pure" mode): every tile attends to all before it."""

    def __init__(
        self,
        model: Any,
        prefix_ids: Sequence[int],
        *,
        reserve: int = 0,
        cache: KVCache | None = None,
        ids: Sequence[int] = (),
    ) -> None:
        """``reserve``: tokens expected in the end. ``cache`` and the ``ids`` in it: what was read before."""
        self.model = model
        self.cache = cache if cache is not None else KVCache(model.model.num_text_layers, reserve=reserve)
        self.ids: list[int] = list(ids)
        self._waiting = [] if self.ids else list(prefix_ids)

    def add(self, span: VisualSpan, tokens_PD: torch.Tensor) -> None:
        ids = [*self._waiting, *span.ids]
        self._waiting = []
        base = self.model.model
        base.language_model(inputs_embeds=base.embed_span(ids, tokens_PD), past_key_values=self.cache, use_cache=True)
        self.ids += ids

    def finish(self) -> None:
        """Nothing is left over."""
