"""How visual tokens get into the cache; one writer for every prefill strategy.

A writer is handed the visual tokens of whole groups, in order, and runs the language model over them when it sees fit.
What is in its cache at the end, and the ids that stand for it, is what questions are asked about.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from videoxl.errors import DoesNotFitError
from videoxl.inference.prompt import VisualSpan
from videoxl.memory.kv_cache import KVCache


class CacheWriter(Protocol):
    """What :class:`~videoxl.inference.prefill.read.Prefill` hands visual tokens to."""

    cache: KVCache
    """Rotated keys at contiguous positions, and values."""
    notes: list[str]
    """What was done differently than asked, one sentence each."""

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


class TiledWriter(ABC):
    """Runs the language model over a few groups at a time, and over fewer when the GPU's memory does not suffice.

    How many is a matter of speed and memory only. What a tile wrote before it failed is taken back.
    """

    def __init__(
        self,
        model: Any,
        prefix_ids: Sequence[int],
        *,
        reserve: int = 0,
        cache: KVCache | None = None,
        ids: Sequence[int] = (),
        tile_groups: int | None = None,
    ) -> None:
        """
        Args:
            reserve: tokens expected in the end.
            cache, ids: what was read before, and the ids in it, which begin with ``prefix_ids``. It grows in place.
            tile_groups: most groups per forward; default as many as are handed over at once.
        """
        self.model, self.prefix_ids = model, list(prefix_ids)
        self.cache = cache if cache is not None else KVCache(model.model.num_text_layers, reserve=reserve)
        self.ids: list[int] = list(ids)
        self.tile_groups = tile_groups
        self.notes: list[str] = []
        """What was done differently than asked, one sentence each."""

    @abstractmethod
    def read(self, ids: Sequence[int], tokens_PD: torch.Tensor) -> None:
        """One forward over whole groups; before the first of them the prefix."""

    @abstractmethod
    def take_back(self) -> None:
        """Undo what a :meth:`read` that failed has done."""

    def add(self, span: VisualSpan, tokens_PD: torch.Tensor) -> None:
        self._add(span.ids, [group.token_start for group in span.groups], tokens_PD)

    def finish(self) -> None:  # noqa: B027  (there is nothing to do unless a writer says so)
        """Nothing is left over."""

    def _add(self, ids: Sequence[int], starts: list[int], tokens_PD: torch.Tensor) -> None:
        """``starts``: where each group begins in ``ids``."""
        per_group = len(tokens_PD) // max(1, len(starts))
        while starts:
            count = min(self.tile_groups or len(starts), len(starts))
            end = starts[count] if count < len(starts) else len(ids)
            try:
                self.read(ids[starts[0] : end], tokens_PD[: count * per_group])
            except torch.OutOfMemoryError:
                self.take_back()
                self._shrink(count)
                continue
            starts, tokens_PD = starts[count:], tokens_PD[count * per_group :]

    def _shrink(self, groups: int) -> None:
        """Go on with tiles half the size. Raises :class:`DoesNotFitError` when they are as small as can be."""
        if groups == 1:
            raise DoesNotFitError(
                f"the GPU ran out of memory after {len(self.ids):,} tokens, with tiles as small as they get: read "
                "fewer frames, or use prefill='chunked:offload=true' (Video-XL-2) or a quantised model"
            )
        self.tile_groups = groups // 2
        self.notes.append(
            f"the GPU ran out of memory after {len(self.ids):,} tokens; went on with {self.tile_groups} instead of "
            f"{groups} groups at a time"
        )
        torch.cuda.empty_cache()


class FullWriter(TiledWriter):
    """Plain causal attention (SPEC: "pure" mode): every tile attends to all before it."""

    def read(self, ids: Sequence[int], tokens_PD: torch.Tensor) -> None:
        new = [*(() if self.ids else self.prefix_ids), *ids]
        base = self.model.model
        base.language_model(inputs_embeds=base.embed_span(new, tokens_PD), past_key_values=self.cache, use_cache=True)
        self.ids += new

    def take_back(self) -> None:
        self.cache.truncate(len(self.ids))
