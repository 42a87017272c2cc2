"""Triton kernels for :mod:`videoxl.model.fused`: one kernel where torch needs two to seven.

Sums and products are in float32 and are rounded once. Triton comes with torch for NVIDIA cards on Linux; where it is
missing there are no kernels, and :data:`TRITON_MISSING` says so.
"""

# ruff: noqa: ANN001, ANN201  (Triton compiles annotations of kernels, too)
from __future__ import annotations

from typing import Any

import torch

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
