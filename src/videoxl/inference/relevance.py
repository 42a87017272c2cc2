"""Which blocks of a video matter to a question, judged by the model that will answer it.

The question is read once against the pooled memory (SPEC 3.7), and what its tokens attend to is summed up per block.
Attention alone is no measure: some places draw it whatever is asked (the first tokens, the last ones, long blocks). So
every head is compared with itself: with what it attends to when the same chat template holds no question. A block's
score is the sum over heads of ``m log(p / r)``, where ``m`` is the attention it draws, ``p`` its share of what the head
gives to the video, and ``r`` that share without a question. A head that looks the same either way adds nothing, and one
that finds a single block outweighs many that spread theirs: heads need not be chosen beforehand.

``benchmarks/relevance.py`` compares this with its parts left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from videoxl.memory.blocks import PooledLevel
from videoxl.memory.kv_cache import KVCache
from videoxl.model.language import LanguageModel, StepAttention, causal_attention

FIRST_LAYER = 1 / 3
"""Layers from this share of the depth on are looked at; those before mostly attend to near tokens and to form."""
LEAST_MASS = 1e-9
"""Added to masses so that a share is never zero."""


def attention_scores(
    model: Any,
    cache: KVCache,
    level: PooledLevel,
    blocks: Sequence[range],
    ids: Sequence[int],
    *,
    rows: int,
    bare_ids: Sequence[int],
) -> np.ndarray:
    """A score per block, in no unit; higher is more relevant.

    Args:
        model: a :class:`VideoXLForConditionalGeneration`.
        cache: the memory's, for the prefix.
        ids: everything to be read after the video, the last ``rows`` of which are the question.
        bare_ids: the same template without a question, to compare with.
    """
    if "bare" not in level.reference:
        level.reference["bare"] = group_masses(model, cache, level, bare_ids, len(bare_ids))
    firsts = [block.start for block in blocks]
    asked = np.add.reduceat(group_masses(model, cache, level, ids, rows), firsts, axis=1) + LEAST_MASS
    bare = np.add.reduceat(level.reference["bare"], firsts, axis=1) + LEAST_MASS
    surprise = np.log(asked / asked.sum(1, keepdims=True)) - np.log(bare / bare.sum(1, keepdims=True))
    return (asked * surprise).mean(axis=0)


@torch.inference_mode()
def group_masses(model: Any, cache: KVCache, level: PooledLevel, ids: Sequence[int], rows: int) -> np.ndarray:
    """Attention of the last ``rows`` tokens of ``ids`` to each group, averaged over them: ``[heads looked at, G]``."""
    base = model.model
    step = ScoringStep(base.language_model, cache, level, rows)
    ids_BL = torch.tensor([list(ids)], device=base.text_device)
    base.language_model.run_step(base.get_input_embeddings()(ids_BL), step)
    return np.concatenate([mass.double().cpu().numpy() for mass in step.masses])


class ScoringStep:
    """Attention of text over prefix, pooled video and itself; notes where it goes. A :class:`Step`."""

    beacons_L: torch.Tensor | None = None

    def __init__(self, language_model: LanguageModel, cache: KVCache, level: PooledLevel, rows: int) -> None:
        self.language_model, self.cache, self.level, self.rows = language_model, cache, level, rows
        self.first_layer = int(FIRST_LAYER * len(language_model.layers))
        self.prefix = level.layout.prefix_length
        self._members: dict[torch.device | None, torch.Tensor]
        self.masses: list[torch.Tensor] = []
        """Per layer looked at ``[N, G]``."""
        sizes = np.diff(level.offsets)
        steps = np.arange(sizes.max())
        inside = steps < sizes[:, None]
        members = torch.from_numpy(np.where(inside, level.offsets[:-1, None] + steps, len(level)))
        self._members = {None: members}

    def attend(
        self, module: StepAttention, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        layer, rotate, device = module.layer_idx, self.language_model.rotate, queries_BNLE.device
        new, total = queries_BNLE.shape[2], self.prefix + len(self.level) + queries_BNLE.shape[2]
        own, held = torch.arange(total - new, total), self.cache.layers[layer]
        pooled = rotate(self.level.keys[layer], torch.arange(self.prefix, total - new))
        q, prefix = rotate(queries_BNLE, own), torch.arange(self.prefix)
        k = torch.cat([held.select("keys", prefix).to(device), pooled, rotate(keys_BKLE, own)], dim=2)
        v = torch.cat([held.select("values", prefix).to(device), self.level.values[layer], values_BKLE], dim=2)
        if layer < self.first_layer:
            return causal_attention(module, q, k, v)
        return self._noted(q, k, v, module.scaling)

    def _noted(self, q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor, scale: float) -> torch.Tensor:
        """Attention written out, a key/value head at a time, so that its weights can be summed per group."""
        new, heads = q_1NLE.shape[2], k_1KSE.shape[1]
        later = torch.ones(new, new, dtype=torch.bool, device=q_1NLE.device).triu_(1)
        outputs, masses = [], []
        for q_RLE, k_SE, v_SE in zip(q_1NLE[0].unflatten(0, (heads, -1)), k_1KSE[0], v_1KSE[0]):
            logits_RLS = (q_RLE.float() @ k_SE.float().T) * scale
            logits_RLS[..., -new:].masked_fill_(later, -torch.inf)
            weights_RLS = logits_RLS.softmax(-1)
            outputs.append((weights_RLS @ v_SE.float()).to(q_1NLE.dtype))
            masses.append(self._per_group(weights_RLS[:, -self.rows :]))
        self.masses.append(torch.cat(masses))
        return torch.cat(outputs)[None]

    def _per_group(self, weights_RLS: torch.Tensor) -> torch.Tensor:
        """Sums over each group's tokens, mean over rows: ``[R, G]``. By gathering: sums in a fixed order."""
        video = weights_RLS.mean(1)[:, self.prefix : self.prefix + len(self.level)]
        padded = torch.nn.functional.pad(video, (0, 1))
        if video.device not in self._members:
            self._members[video.device] = self._members[None].to(video.device)
        return padded[:, self._members[video.device]].sum(-1)
