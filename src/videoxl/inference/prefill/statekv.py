"""Prefill with a carried state: tokens attend to the most attended so far, so a step costs the same at any length.

After StateKV (arXiv 2605.31598). A step is a few groups. Its tokens keep their true positions and attend to the keys
that are carried on, and to each other, causally. A key's score is the attention that the step's rows give it, summed
over the query heads that share its head. In every layer and head, the ``budget`` best of the carried and the new keys
are carried on; the text before the video competes like all others. All keys and values are kept for questions, which
attend to everything. No question is involved, so one reading serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from videoxl.config import StateKVPrefill
from videoxl.inference.prefill.full import TiledPrefiller
from videoxl.memory.kv_cache import KVCache, Pair
from videoxl.model.attention import AttentionLayer, rotate_wide
from videoxl.model.attention_mass import attention_and_mass
from videoxl.model.decoder import LanguageModel
from videoxl.model.upload import to_device

Carried = dict[int, Pair]
"""Per layer, keys and values ``[1, K, b, E]`` that the next step attends to: of each head its own tokens."""


class StateKVPrefiller(TiledPrefiller):
    """Reads step by step. What is carried follows from all that was read, so a reading cannot go on later."""

    def __init__(self, model: Any, prefix_ids: Sequence[int], strategy: StateKVPrefill, **before: Any) -> None:
        """``before``: see :class:`TiledPrefiller`."""
        super().__init__(model, prefix_ids, tile_groups=strategy.step, **before)
        self.budget = strategy.budget
        self.carried: Carried = {}

    def read(self, ids: Sequence[int], tokens_PD: torch.Tensor) -> None:
        new = [*(() if self.ids else self.prefix_ids), *ids]
        base, positions = self.model.model, self._positions(new)
        embeds, added = base.embed_span_in_layers(new, tokens_PD)
        if positions is None:
            positions = torch.arange(len(self.ids), len(self.ids) + len(new))
        step = StepAttention(base.language_model, self.cache, self.carried, positions, self.budget, len(new) - len(ids))
        base.language_model.run_plan(embeds, step, layer_inputs=added)
        self.carried = step.next
        self._went_on(new, positions if positions.ndim == 2 else None)

    def rollback(self) -> None:
        self.cache.truncate(len(self.ids))

    def finish(self) -> None:
        """What is carried serves nobody any more."""
        self.carried = {}


class StepAttention:
    """Attention of one step in every layer; an :class:`~videoxl.model.attention.AttentionPlan`."""

    beacon_slots: torch.Tensor | None = None

    def __init__(
        self,
        language_model: LanguageModel,
        cache: KVCache,
        carried: Carried,
        positions: torch.Tensor,
        budget: int,
        first: int,
    ) -> None:
        """``positions``: of the new tokens ``[L]`` or ``[3, L]``; ``first``: the first of the video among them."""
        self.language_model, self.cache, self.carried, self.positions = language_model, cache, carried, positions
        self.budget, self.first = budget, first
        self.next: Carried = {}
        self._tables: dict[torch.device, Pair] = {}

    def attend(
        self, layer: AttentionLayer, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        number, tables = layer.layer_idx, self._tables_on(keys_BKLE.device)
        q, keys, values = rotate_wide(queries_BNLE, tables), rotate_wide(keys_BKLE, tables), values_BKLE
        self.cache.layers[number].keep(keys, values)
        if number in self.carried:
            before_keys, before_values = self.carried[number]
            keys, values = torch.cat((before_keys, keys), dim=2), torch.cat((before_values, values), dim=2)
        out_BNLE, mass_KS = attention_and_mass(layer, q, keys, values, self.first)
        self.next[number] = most_attended(keys, values, mass_KS, self.budget)
        return out_BNLE

    def _tables_on(self, device: torch.device) -> Pair:
        if device not in self._tables:
            self._tables[device] = self.language_model.rope_tables(to_device(self.positions, device), device)
        return self._tables[device]


def most_attended(keys_1KSE: torch.Tensor, values_1KSE: torch.Tensor, mass_KS: torch.Tensor, budget: int) -> Pair:
    """Of each head the ``budget`` tokens with most mass, in the order they have; all where there are no more."""
    if keys_1KSE.shape[2] <= budget:
        return keys_1KSE, values_1KSE
    chosen_KB = mass_KS.topk(budget, dim=1).indices.sort(dim=1).values
    index = chosen_KB[None, :, :, None].expand(-1, -1, -1, keys_1KSE.shape[-1])
    return keys_1KSE.gather(2, index), values_1KSE.gather(2, index)
