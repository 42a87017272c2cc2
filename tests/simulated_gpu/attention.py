"""Attention kernels of the simulated device: chosen as torch would, counted, and computed where numbers are real."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import varlen  # registers its operator
from torch.nn.attention.bias import CausalBias

from tests.simulated_gpu.card import HALF, AttentionCall, Backend, choose_backend
from tests.simulated_gpu.counts import place

if TYPE_CHECKING:
    from tests.simulated_gpu.device import DeviceTensor, SimulatedDevices

VARLEN = torch.ops.torch_attn._varlen_attn.default
"""What ``torch.nn.attention.varlen.varlen_attn`` calls."""
assert varlen.varlen_attn
plain_attention = F.scaled_dot_product_attention
"""torch's own, kept from before it is replaced."""


def enabled_backends() -> set[Backend]:
    """Those that ``torch.nn.attention.sdpa_kernel`` leaves."""
    on = torch.backends.cuda
    flags: dict[Backend, bool] = {
        "cudnn": on.cudnn_sdp_enabled(),
        "flash": on.flash_sdp_enabled(),
        "efficient": on.mem_efficient_sdp_enabled(),
        "math": on.math_sdp_enabled(),
    }
    return {name for name, enabled in flags.items() if enabled}


def scaled_dot_product_attention(
    device: SimulatedDevices,
    q: DeviceTensor,
    k: DeviceTensor,
    v: DeviceTensor,
    mask: Any = None,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> torch.Tensor:
    """``[B, N, L, E]`` from ``[B, N, L, E]`` and ``[B, K, S, E]``, on the simulated device."""
    lower = isinstance(mask, CausalBias)
    given = [q, k, v, *([mask] if isinstance(mask, torch.Tensor) and not lower else [])]
    if len({t.device for t in given}) > 1 or len({t.dtype for t in (q, k, v)}) > 1:
        raise RuntimeError(f"attention over {[(str(t.device), t.dtype) for t in given]} at {place()}")
    (batch, heads, new, width), total = q.shape, k.shape[2]
    call = AttentionCall(
        q.dtype,
        heads,
        k.shape[1],
        new,
        total,
        width,
        v.shape[-1],
        "lower right" if lower else "none" if mask is None else "tensor",
        causal,
        grouped,
        all(t.stride(-1) == 1 for t in (q, k, v)),
    )
    backend = choose_backend(device.card, call, enabled_backends())
    triangle = lower or causal
    pairs = new * total - (new * (new - 1) // 2 if triangle else 0)
    kind = backend + {"none": "", "tensor": " masked", "lower right": " lower right"}[call.mask]
    index = q.device.index
    with torch._C._DisableTorchDispatch():
        held = q.held, k.held, v.held
        seen = None if mask is None else _lower(new, total) if lower else mask.held

        def work() -> torch.Tensor:
            _count(device, kind, backend, *held, pairs)
            _count_extra(device, index, backend, call, batch, mask if call.mask == "tensor" else None)
            if not device.real:
                shape = (batch, new, heads, v.shape[-1])
                return torch.empty(shape, dtype=q.dtype, device="meta").transpose(1, 2)
            return plain_attention(*held, attn_mask=seen, is_causal=causal, scale=scale, enable_gqa=grouped)

        out = device.carry_out(work)
    return device.hold(out, index)


def _count_extra(
    device: SimulatedDevices, index: int, backend: Backend, call: AttentionCall, batch: int, mask: torch.Tensor | None
) -> None:
    """What a kernel needs besides its inputs and its output."""
    size = call.dtype.itemsize
    if mask is not None and mask.dtype == torch.bool and backend != "math":
        device.touch(index, mask.numel() * size)  # it becomes a bias in the dtype of the queries
        device.launch("mask to bias")
    if backend == "math":
        device.touch(index, 2 * batch * call.heads * call.new * call.total * 4)
        if call.heads != call.key_heads:
            device.touch(index, 2 * batch * call.heads * call.total * call.width * size)


def varlen_attention(
    device: SimulatedDevices,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    begins_q: torch.Tensor,
    begins_k: torch.Tensor | None,
    most_q: int,
    most_k: int,
    causal: bool = False,
    scale: float | None = None,
    window: Any = None,
    grouped: bool = False,
    used: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
    splits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``torch.nn.attention.varlen``: ``[T, N, E]`` over ``[S, K, E]``, with the logarithm of the sum of exponentials.

    Arguments are what the device tensors hold. Only one sequence is known here.
    """
    if q.dtype not in HALF and not device.real:
        raise RuntimeError(f"varlen attention knows fp16 and bf16, not {q.dtype}, at {place()}")
    if device.card.capability < (8, 0):
        raise RuntimeError(f"varlen attention needs compute capability 8.0, {device.card.name} has less")
    (new, heads, _), total = q.shape, k.shape[0]
    if used is not None and not used.is_meta:
        total = int(used.max())
    pairs = new * total - (new * (new - 1) // 2 if causal else 0)
    _count(
        device,
        "flash varlen",
        "flash",
        *(t.transpose(0, 1)[None] for t in (q, k[:total], v[:total])),
        pairs,
    )
    if not device.real:
        return q.new_empty(q.shape), q.new_empty((heads, new), dtype=torch.float32), q.new_empty(2)
    out, sums = reference_attention(q, k[:total], v[:total], causal=causal, scale=scale)
    return out, sums, torch.zeros(2)


def reference_attention(
    q_LNE: torch.Tensor, k_SKE: torch.Tensor, v_SKE: torch.Tensor, *, causal: bool, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Written out: outputs ``[L, N, E]`` and log-sum-exps ``[N, L]`` in float32; causal is aligned at the end."""
    groups = q_LNE.shape[1] // k_SKE.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1).float() for t in (k_SKE, v_SKE))
    scores = torch.einsum("lne,sne->nls", q_LNE.float(), k) * (scale or q_LNE.shape[-1] ** -0.5)
    if causal:
        scores = scores.masked_fill(~_lower(*scores.shape[1:]), -torch.inf)
    out = torch.einsum("nls,sne->lne", scores.softmax(-1), v)
    return out.to(q_LNE.dtype), scores.logsumexp(-1)


def _lower(new: int, total: int) -> torch.Tensor:
    return torch.ones(new, total, dtype=torch.bool).tril_(total - new)


def _count(device: SimulatedDevices, kind: str, backend: Backend, q: Any, k: Any, v: Any, pairs: int) -> None:
    batch, heads = q.shape[:2]
    flops = 2 * batch * heads * pairs * (q.shape[-1] + v.shape[-1])
    keys = k.shape[2] * k.shape[1] * (k.shape[-1] + v.shape[-1]) * k.element_size()
    moved = 2 * q.numel() * q.element_size() + keys * (batch if k.stride(0) else 1)
    counts = device.counts
    counts.add_attention(kind, place(), flops, (q.shape[2], k.shape[2]))
    counts.flops["attention"] += flops
    counts.moved["device"] += moved
    counts.seconds["attention"] += max(
        flops / device.card.attention_flops[backend], moved / device.card.bytes_per_second
    )
    device.launch(f"attention {kind}")
