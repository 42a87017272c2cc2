"""Triton kernels for :mod:`videoxl.model.fused`: one kernel where torch needs two to seven.

Sums and products are in float32 and are rounded once. Triton comes with torch for NVIDIA cards on Linux; where it is
missing there are no kernels, and :data:`TRITON_MISSING` says so.
"""

# ruff: noqa: ANN001, ANN201  (Triton compiles annotations of kernels, too)
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from videoxl.model.upload import to_device

TRITON_MISSING = ""
"""Why there are no kernels; empty where there are."""
try:
    import triton  # type: ignore[import-untyped]
    import triton.language as tl  # type: ignore[import-untyped]

    jit = triton.jit
except ImportError as error:
    TRITON_MISSING = f"Triton is missing ({error})"
    triton = tl = None

    def jit(function: Any) -> Any:
        return function


BLOCK = 1024


@jit  # type: ignore[untyped-decorator]
def silu_mul_kernel(gate_up, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * width + column, mask=inside).to(tl.float32)
    result = gate / (1 + tl.exp(-gate)) * up
    tl.store(out + row * width + column, result.to(out.dtype.element_ty), mask=inside)


@jit  # type: ignore[untyped-decorator]
def rotate_and_append_kernel(  # type: ignore[no-untyped-def]
    states,
    tables,
    counters,
    queries,
    keys,
    values,
    heads,
    groups,
    query_row_stride,
    query_head_stride,
    head_stride,
    place_stride,
    width,
    BLOCK: tl.constexpr,
):
    """One program for each head of queries, keys and values of each token."""
    head, token = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < width
    first = states + (token * (heads + 2 * groups) + head) * width
    state = tl.load(first + column, mask=inside)
    place = (tl.load(counters + 1) + token) * place_stride + column
    if head < heads + groups:
        row = tables + (tl.load(counters) + token) * 2 * width
        other = tl.load(first + (column + width // 2) % width, mask=inside).to(tl.float32)
        cos = tl.load(row + column, mask=inside).to(tl.float32)
        sin = tl.load(row + width + column, mask=inside).to(tl.float32)
        rotated = (state.to(tl.float32) * cos + other * sin).to(states.dtype.element_ty)
        if head < heads:
            query = queries + token * query_row_stride + head * query_head_stride + column
            tl.store(query, rotated.to(queries.dtype.element_ty), mask=inside)
        else:
            tl.store(keys + (head - heads) * head_stride + place, rotated, mask=inside)
    else:
        tl.store(values + (head - heads - groups) * head_stride + place, state, mask=inside)


@jit  # type: ignore[untyped-decorator]
def gather_layers_kernel(  # type: ignore[no-untyped-def]
    dense,
    coarse,
    index,
    inverse,
    tables,
    out,
    groups,
    entries,
    dense_stride,
    coarse_stride,
    layer_stride,
    head_stride,
    width,
    UNROTATE: tl.constexpr,
    ROTATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each token of each head of each layer. ``dense`` and ``coarse`` hold addresses of layers."""
    token, place = tl.program_id(0), tl.program_id(1)
    layer, group = place // groups, place % groups
    column = tl.arange(0, BLOCK)
    inside = column < width
    other = (column + width // 2) % width
    pointer = tl.pointer_type(out.dtype.element_ty)
    from_dense = tl.load(dense + layer).to(pointer) + group.to(tl.int64) * dense_stride
    from_coarse = tl.load(coarse + layer).to(pointer) + group.to(tl.int64) * coarse_stride
    total = column.to(tl.float32) * 0
    total_other = total
    count = 0
    for entry in range(entries):
        row = tl.load(index + token * entries + entry)
        seen = inside & (row >= 0)
        first = from_dense + row * width
        x = tl.load(first + column, mask=seen, other=0.0).to(tl.float32)
        y = tl.load(first + other, mask=seen, other=0.0).to(tl.float32)
        if UNROTATE:
            cos = inverse + row * 2 * width
            sin = cos + width
            turned = x * tl.load(cos + column, mask=seen, other=0.0) + y * tl.load(sin + column, mask=seen, other=0.0)
            y = y * tl.load(cos + other, mask=seen, other=0.0) + x * tl.load(sin + other, mask=seen, other=0.0)
            x = turned
        pooled = inside & (row < -1)
        first = from_coarse + (-2 - row) * width
        total += x + tl.load(first + column, mask=pooled, other=0.0).to(tl.float32)
        total_other += y + tl.load(first + other, mask=pooled, other=0.0).to(tl.float32)
        count += (row != -1).to(tl.int32)
    mean = total / count
    if ROTATE:
        cos = tables + token * 2 * width
        turned = (total_other / count) * tl.load(cos + width + column, mask=inside, other=0.0)
        mean = mean * tl.load(cos + column, mask=inside, other=0.0) + turned
    to = out + layer.to(tl.int64) * layer_stride + group.to(tl.int64) * head_stride + token.to(tl.int64) * width
    tl.store(to + column, mean.to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """As :func:`videoxl.model.fused.silu_mul`, of a contiguous tensor."""
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty((*gate_up.shape[:-1], width))
    silu_mul_kernel[(out.numel() // width, triton.cdiv(width, BLOCK))](gate_up, out, width, BLOCK=BLOCK)
    return out


def rotate_and_append(
    states_LHE: torch.Tensor,
    tables_R2E: torch.Tensor,
    counters: torch.Tensor,
    queries_LNE: torch.Tensor,
    keys_1KSE: torch.Tensor,
    values_1KSE: torch.Tensor,
) -> None:
    """As :func:`videoxl.model.fused.plain_rotate_and_append`; keys and values are laid out alike."""
    (length, heads, width), groups = queries_LNE.shape, keys_1KSE.shape[1]
    rotate_and_append_kernel[(heads + 2 * groups, length)](
        states_LHE,
        tables_R2E,
        counters,
        queries_LNE,
        keys_1KSE,
        values_1KSE,
        heads,
        groups,
        queries_LNE.stride(0),
        queries_LNE.stride(1),
        keys_1KSE.stride(1),
        keys_1KSE.stride(2),
        width,
        BLOCK=triton.next_power_of_2(width),
    )


def are_alike(dense: Sequence[torch.Tensor], coarse: Sequence[torch.Tensor], out_XKME: torch.Tensor) -> bool:
    """Whether :func:`gather_layers` takes these: layers of one device and dtype, laid out alike, token behind token."""
    like = (out_XKME.dtype, out_XKME.device)
    if any((t.dtype, t.device) != like for t in (*dense, *coarse)):
        return False
    if any(len({t.stride() for t in states}) > 1 for states in (dense, coarse)):
        return False
    every = (*dense, *coarse, out_XKME)
    return all(t.stride(-1) == 1 and t.stride(-2) == t.shape[-1] for t in every)


def gather_layers(
    dense: Sequence[torch.Tensor],
    coarse: Sequence[torch.Tensor],
    index_MP: torch.Tensor,
    inverse_S2E: torch.Tensor | None,
    tables_M2E: torch.Tensor | None,
    out_XKME: torch.Tensor,
) -> None:
    """As :func:`videoxl.model.fused.plain_gather_layers`, for tensors that :func:`are_alike`; tables in float32."""
    layers, groups, tokens, width = out_XKME.shape
    addresses = [
        to_device(torch.tensor([t.data_ptr() for t in s or coarse or dense]), out_XKME.device) for s in (dense, coarse)
    ]
    strides = [(s or coarse or dense)[0].stride(1) for s in (dense, coarse)]
    gather_layers_kernel[(tokens, layers * groups)](
        *addresses,
        index_MP,
        out_XKME if inverse_S2E is None else inverse_S2E,
        out_XKME if tables_M2E is None else tables_M2E,
        out_XKME,
        groups,
        index_MP.shape[1],
        *strides,
        out_XKME.stride(0),
        out_XKME.stride(1),
        width,
        UNROTATE=inverse_S2E is not None,
        ROTATE=tables_M2E is not None,
        BLOCK=triton.next_power_of_2(width),
    )
