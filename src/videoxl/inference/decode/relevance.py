"""Which blocks of a video matter to a question, judged by the model that will answer it.

The question is read once against the pooled memory (SPEC 3.7). A group of frames is as relevant as the attention that
the question's tokens give to its visual tokens, the mean over all heads of all layers; a block is as relevant as its
best group. What makes that a good measure:

- Timestamps are left out. They draw attention that says nothing about what is looked for.
- An average of ``n`` visual tokens weighs as much as ``n`` tokens like it would (``log n`` is added to its logit): the
  video keeps its weight against what is not averaged, timestamps and the question's own words.
- Nothing is compared with a prompt without a question. That attends to what stands out in the video, which is mostly
  what questions are about, and comparing takes away what is looked for.
- No layers and no heads are chosen: without the first layers it was no better, with the last alone it was worse.

``benchmarks/relevance_ablation.py`` compares this with other rules on the embedded model. docs/notes/relevance.md has
the table, and what it cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from videoxl.inference.decode.scoring import ScoringRows
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.pooling import CoarseKV
from videoxl.model.attention import AttentionLayer
from videoxl.model.decoder import LanguageModel
from videoxl.model.token_step import TokenStep
from videoxl.model.upload import to_device


def attention_scores(
    model: Any,
    cache: KVCache,
    level: CoarseKV,
    blocks: Sequence[range],
    ids: Sequence[int],
    *,
    rows: int,
) -> np.ndarray:
    """A score per block: the share of the question's attention that its best group gets.

    Args:
        model: a :class:`VideoXLForConditionalGeneration`.
        cache: the memory's, for the prefix.
        ids: everything to be read after the video, the last ``rows`` of which are the question.
    """
    masses = group_masses(model, cache, level, ids, rows)
    return np.maximum.reduceat(masses.mean(axis=0), [block.start for block in blocks])


@torch.inference_mode()
def group_masses(model: Any, cache: KVCache, level: CoarseKV, ids: Sequence[int], rows: int) -> np.ndarray:
    """Attention of the last ``rows`` tokens of ``ids`` to each group's visual tokens, their mean: ``[heads, G]``.

    Heads of all layers, one layer after the other.
    """
    base, language_model = model.model, model.model.language_model
    embeds_BLD = base.get_input_embeddings()(to_device(torch.tensor([list(ids)]), base.text_device))
    step, total = TokenStep.of(language_model), level.layout.prefix_length + len(level) + len(ids)
    if step is not None and ScoringRows.serves(step, cache, level, len(ids), total):
        members_GP, bias_M = members_and_bias(level)
        at_once = ScoringRows(step, cache, level, bias_M, len(ids), rows)
        step(embeds_BLD[0], at_once)
        return at_once.masses(members_GP).double().cpu().numpy()
    plan = ScoringPlan(language_model, cache, level, rows)
    language_model.run_plan(embeds_BLD, plan)
    return np.concatenate([mass.double().cpu().numpy() for mass in plan.masses])


def members_and_bias(level: CoarseKV) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each group's visual tokens stand ``[G, P]``, padded with ``M``; what is added to scores with tokens [M]."""
    times = level.layout.visuals_G - level.layout.starts_G
    sizes = np.diff(level.offsets) - times
    steps = np.arange(sizes.max())
    first = (level.offsets[:-1] + times)[:, None]
    members_GP = torch.from_numpy(np.where(steps < sizes[:, None], first + steps, len(level)))
    bias = torch.zeros(len(level) + 1).index_fill_(0, members_GP.flatten(), math.log(level.pool))[:-1]
    if level.dense_G is not None:  # a token weighs as much as itself
        bias[torch.from_numpy(np.repeat(level.dense_G, np.diff(level.offsets)))] = 0
    return members_GP, bias


class ScoringPlan:
    """Attention of text over prefix, pooled video and itself; notes where it goes (an attention plan)."""

    beacon_slots: torch.Tensor | None = None

    def __init__(self, language_model: LanguageModel, cache: KVCache, level: CoarseKV, rows: int) -> None:
        self.language_model, self.cache, self.level, self.rows = language_model, cache, level, rows
        self.prefix = level.layout.prefix_length
        self.masses: list[torch.Tensor] = []
        """Per layer ``[N, G]``."""
        self._made: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {
            torch.device("cpu"): members_and_bias(level)
        }

    def attend(
        self, layer: AttentionLayer, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        number, apply_rope, device = layer.layer_idx, self.language_model.apply_rope, queries_BNLE.device
        new, total = queries_BNLE.shape[2], self.prefix + len(self.level) + queries_BNLE.shape[2]
        held, places = self.cache.layers[number], self.level.positions
        begin = total - new if places is None else places.next
        own = torch.arange(begin, begin + new)
        at = torch.arange(self.prefix, total - new) if places is None else places.held_3S
        pooled = apply_rope(self.level.keys[number], at)
        q, prefix = apply_rope(queries_BNLE, own), torch.arange(self.prefix)
        k = torch.cat([held.select("keys", prefix).to(device), pooled, apply_rope(keys_BKLE, own)], dim=2)
        v = torch.cat([held.select("values", prefix).to(device), self.level.values[number], values_BKLE], dim=2)
        return self._noted(q, k, v, layer.scaling)

    def _noted(self, q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor, scale: float) -> torch.Tensor:
        """Attention written out, a key/value head at a time, so that its weights can be summed per group."""
        new, heads = q_1NLE.shape[2], k_1KSE.shape[1]
        later = torch.ones(new, new, dtype=torch.bool, device=q_1NLE.device).triu_(1)
        members_GP, bias_M = self._on(q_1NLE.device)
        outputs, masses = [], []
        for q_RLE, k_SE, v_SE in zip(q_1NLE[0].unflatten(0, (heads, -1)), k_1KSE[0], v_1KSE[0]):
            logits_RLS = (q_RLE.float() @ k_SE.float().T) * scale
            logits_RLS[..., self.prefix : -new] += bias_M
            logits_RLS[..., -new:].masked_fill_(later, -torch.inf)
            weights_RLS = logits_RLS.softmax(-1)
            outputs.append((weights_RLS @ v_SE.float()).to(q_1NLE.dtype))
            video_RM = weights_RLS[:, -self.rows :, self.prefix : -new].mean(1)
            # by gathering, a zero behind: sums in a fixed order
            masses.append(torch.nn.functional.pad(video_RM, (0, 1))[:, members_GP].sum(-1))
        self.masses.append(torch.cat(masses))
        return torch.cat(outputs)[None]

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each group's visual tokens stand in the level, padded with its length; what is added per token."""
        if device not in self._made:
            members_GP, bias_M = self._made[torch.device("cpu")]
            self._made[device] = members_GP.to(device), bias_M.to(device)
        return self._made[device]
