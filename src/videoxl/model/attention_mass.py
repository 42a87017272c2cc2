"""Attention, and how much of it every key gets, without the whole matrix: its log-sum-exps first, then column sums.

Shapes: ``N`` query heads, ``K`` key/value heads, ``R = N / K`` query heads per key head, ``L`` rows at the end of ``S``
keys, ``E`` head width.
"""

from __future__ import annotations

import torch

from videoxl.model.attention import AttentionLayer
from videoxl.model.attention_parts import SCORES_AT_ONCE, Part, plain_with_sums
from videoxl.model.flash import flash_with_sums, is_flash


def attention_and_mass(
    layer: AttentionLayer, q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor, first: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention of the last ``L`` of ``S`` tokens ``[1, N, L, E]``, and the mass that each key gets ``[K, S]``.

    The mass is summed over the rows from ``first`` on and over the query heads that share a key head, in fp32.
    """
    out, sums_1NL = _attend(layer, q_1NLE, k_1KSE, v_1KSE)
    return out, mass_of_keys(q_1NLE, k_1KSE, sums_1NL, layer.scaling, first)


def _attend(layer: AttentionLayer, q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor) -> Part:
    if is_flash(q_1NLE, k_1KSE):
        return flash_with_sums(q_1NLE, k_1KSE, v_1KSE, scale=layer.scaling, causal=True)
    return plain_with_sums(q_1NLE, k_1KSE, v_1KSE, end_aligned(q_1NLE, k_1KSE), scale=layer.scaling)


def end_aligned(q_1NLE: torch.Tensor, k_1KSE: torch.Tensor) -> torch.Tensor:
    """Which keys each row sees ``[L, S]``: all up to itself."""
    new, total = q_1NLE.shape[2], k_1KSE.shape[2]
    return torch.ones(new, total, dtype=torch.bool, device=q_1NLE.device).tril_(total - new)


def mass_of_keys(
    q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, sums_1NL: torch.Tensor, scale: float, first: int = 0
) -> torch.Tensor:
    """The second pass: ``[K, S]``. So many keys at once as bound the memory."""
    heads, new, total = k_1KSE.shape[1], q_1NLE.shape[2], k_1KSE.shape[2]
    rows = q_1NLE[0].unflatten(0, (heads, -1))[:, :, first:].flatten(1, 2).float()  # [K, R L, E]
    sums = sums_1NL[0].unflatten(0, (heads, -1))[:, :, first:].flatten(1, 2).unsqueeze(-1)
    own = torch.arange(first, new, device=q_1NLE.device).repeat(rows.shape[1] // max(1, new - first))
    mass, step = [], max(1, SCORES_AT_ONCE // max(1, rows.shape[0] * rows.shape[1]))
    for begin in range(0, total, step):
        keys = k_1KSE[0, :, begin : begin + step].float()
        weights = ((rows @ keys.transpose(1, 2)) * scale - sums).exp_()
        if begin + step > total - new:  # among the new ones a row sees no later key
            place = torch.arange(begin, begin + keys.shape[1], device=keys.device) - (total - new)
            weights.masked_fill_(place > own[:, None], 0.0)
        mass.append(weights.sum(1))
    return torch.cat(mass, dim=1)


def written_out(
    layer: AttentionLayer, q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor, first: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`attention_and_mass` from the whole matrix: the plain reference."""
    heads = k_1KSE.shape[1]
    rows = q_1NLE[0].unflatten(0, (heads, -1)).float()
    scores = torch.einsum("krle,kse->krls", rows, k_1KSE[0].float()) * layer.scaling
    weights = scores.masked_fill(~end_aligned(q_1NLE, k_1KSE), -torch.inf).softmax(-1)
    out = torch.einsum("krls,kse->krle", weights, v_1KSE[0].float())
    return out.flatten(0, 1)[None].to(q_1NLE.dtype), weights[:, :, first:].sum((1, 2))
