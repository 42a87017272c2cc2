"""Flash attention on a GPU through torch's public variable-length interface.

Why not ``scaled_dot_product_attention``: it picks a kernel by itself. On compute capability 9.0 that is cuDNN's, which
plans every new pair of lengths anew, and the cache of a language model has a new length at every token. It also knows
neither a mask aligned at the end with grouped heads for every kernel, nor the log-sum-exp that merging needs
(:mod:`videoxl.model.attention_parts`).

Shapes: ``N`` query heads, ``K`` key/value heads, ``L`` new tokens, ``S`` all tokens, ``E`` head width.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn.attention.varlen import AuxRequest, varlen_attn

HALF = (torch.float16, torch.bfloat16)
WIDEST_HEAD = 256
LEAST_CAPABILITY = (8, 0)
"""Compute capability of the first cards that the kernel runs on (Ampere)."""
WHOLE, CAUSAL = (-1, -1), (-1, 0)


def is_flash(q_BNLE: torch.Tensor, k_BKSE: torch.Tensor) -> bool:
    """Whether the kernel takes these: one sequence, half precision, a card that has it, and nobody wants gradients."""
    return (
        q_BNLE.is_cuda
        and q_BNLE.dtype in HALF
        and len(q_BNLE) == len(k_BKSE) == 1
        and q_BNLE.shape[-1] <= WIDEST_HEAD
        and q_BNLE.shape[-1] % 8 == 0
        and not torch.is_grad_enabled()
        and has_flash(q_BNLE.device)
    )


@lru_cache
def has_flash(device: torch.device) -> bool:
    """Whether a GPU runs the kernel at all."""
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def flash_attention(
    q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor, *, scale: float, causal: bool
) -> torch.Tensor:
    """Attention of one sequence ``[1, N, L, E]``; ``causal`` is aligned at the end."""
    return flash_with_sums(q_1NLE, k_1KSE, v_1KSE, scale=scale, causal=causal)[0]


def flash_with_sums(
    q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor, *, scale: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`flash_attention`, with the log-sum-exp of every row's scores ``[1, N, L]`` in fp32."""
    new, total = q_1NLE.shape[2], k_1KSE.shape[2]
    out_LNE, sums_NL = varlen_attn(
        q_1NLE[0].transpose(0, 1),
        k_1KSE[0].transpose(0, 1),
        v_1KSE[0].transpose(0, 1),
        _bounds(new, q_1NLE.device),
        _bounds(total, q_1NLE.device),
        new,
        total,
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=CAUSAL if causal and new > 1 else WHOLE,
        enable_gqa=True,
    )
    return out_LNE.transpose(0, 1)[None], sums_NL[None]


def attend_to_used(
    q_1NE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor, used: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Attention of one token over the first ``used`` (``[1]``, int32, on the device) of ``S`` keys: ``[1, N, E]``.

    The host need not know how many there are: the call is the same at every length.
    """
    total = k_1KSE.shape[2]
    out, _ = varlen_attn(
        q_1NE,
        k_1KSE[0].transpose(0, 1),
        v_1KSE[0].transpose(0, 1),
        _bounds(1, q_1NE.device),
        _bounds(total, q_1NE.device),
        1,
        total,
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=WHOLE,
        enable_gqa=True,
        seqused_k=used,
    )
    return out


@lru_cache(maxsize=256)
def _bounds(length: int, device: torch.device) -> torch.Tensor:
    """Where the one sequence begins and ends; made on the device, since an upload would wait for it."""
    return torch.arange(0, length + 1, length, dtype=torch.int32, device=device)
