"""Attention over several sets of keys: over each by itself, then merged by log-sum-exp.

It pays where one set needs no mask and is large (a whole memory) and another is small. Shapes: ``B`` sequences, ``N``
query heads, ``K`` key/value heads, ``L`` rows, ``S`` keys, ``E`` head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch

Part = tuple[torch.Tensor, torch.Tensor]
"""Outputs ``[B, N, L, E]``, and log-sum-exps of the scores ``[B, N, L]`` in fp32: ``-inf`` where a row sees nothing."""
SCORES_AT_ONCE = 1 << 24
"""Scores that are written out together: 64 MB in fp32."""


def merge(parts: Sequence[Part]) -> torch.Tensor:
    """Attention over all sets ``[B, N, L, E]``, in fp32 and rounded once. Every row must see something of one."""
    merged, _ = reduce(_merge_two, parts)
    return merged.to(parts[0][0].dtype)


def _merge_two(one: Part, other: Part) -> Part:
    """Both sets as one, in fp32."""
    share = (one[1] - other[1]).sigmoid().nan_to_num(0.0)  # neither is a number where a row sees nothing of both
    merged = torch.lerp(other[0].float(), one[0].float(), share.unsqueeze(-1))
    return merged, torch.logaddexp(one[1], other[1])


def plain_with_sums(
    q_BNLE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, mask: torch.Tensor | None, *, scale: float
) -> Part:
    """Attention written out in fp32, so many keys at once as bound the memory.

    ``mask``: bool, broadcast to ``[B, 1, L, S]``; None: every row sees all keys. A row that sees nothing gives zeros.
    """
    rows = q_BNLE.shape[0] * q_BNLE.shape[1] * q_BNLE.shape[2]
    step = max(1, SCORES_AT_ONCE // rows)
    parts = [
        _plain_piece(q_BNLE, keys, values, None if mask is None else mask[..., first : first + step], scale)
        for first, keys, values in zip(range(0, k_BKSE.shape[2], step), k_BKSE.split(step, 2), v_BKSE.split(step, 2))
    ]
    out, sums = reduce(_merge_two, parts)
    return out.to(q_BNLE.dtype), sums


def _plain_piece(
    q_BNLE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> Part:
    batch, heads, new, _ = q_BNLE.shape
    rows = q_BNLE.reshape(batch, k_BKSE.shape[1], -1, q_BNLE.shape[-1]).float()  # all heads of a group, [B, K, R L, E]
    scores = (rows @ k_BKSE.float().transpose(-1, -2)).view(batch, heads, new, -1) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    highest = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min)  # of a row without keys, too
    weights = (scores - highest).exp_()
    total = weights.sum(-1, keepdim=True)
    out = (weights.view(*rows.shape[:3], -1) @ v_BKSE.float()).view(batch, heads, new, -1)
    return out / total.clamp_min(torch.finfo(scores.dtype).tiny), (highest + total.log()).squeeze(-1)
