"""Small steps of one token that are one kernel on a GPU. Each has its plain form beside it, which defines it.

They are operators of torch, ``torch.ops.videoxl``: the kernel is :mod:`videoxl.model.fused_kernels` on a GPU where
Triton is there and agrees with the plain form, else the plain form.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch.nn import functional as F  # noqa: N812

from videoxl.model import fused_kernels
from videoxl.model.attention import rotate

LIBRARY = torch.library.Library("videoxl", "DEF")
LIBRARY.define("silu_mul(Tensor gate_up) -> Tensor")
LIBRARY.define(
    "rotate_and_append(Tensor states, Tensor tables, Tensor counters, Tensor(a!) queries, Tensor(b!) keys,"
    " Tensor(c!) values) -> ()"
)

LIBRARY.define(
    "gather_layers(Tensor[] dense, Tensor[] coarse, Tensor index, Tensor? inverse, Tensor? tables, Tensor(a!) out)"
    " -> ()"
)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up`` of ``[..., 2 I]``, gates first: ``[..., I]``."""
    if gate_up.is_cuda:
        out: torch.Tensor = torch.ops.videoxl.silu_mul(gate_up)
        return out
    return plain_silu_mul(gate_up)


def plain_silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate_and_append(
    states_LHE: torch.Tensor,
    tables_R2E: torch.Tensor,
    counters: torch.Tensor,
    keys_1KSE: torch.Tensor,
    values_1KSE: torch.Tensor,
    queries_LNE: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rotate queries and keys of tokens in a row and put keys and values into their places: the queries ``[L, N, E]``.

    Args:
        states_LHE: queries, keys and values of all heads, un-rotated, side by side.
        tables_R2E: cosines and sines, as of :class:`~videoxl.model.layers.RotaryEmbedding`, in any dtype.
        counters: ``[2]`` integers on the device, of the first token: its row of ``tables``, its place in the buffers.
        queries_LNE: gets the queries, rounded to the dtype of ``states_LHE`` whatever its own; default a new tensor.
    """
    if queries_LNE is None:
        length, heads, width = states_LHE.shape
        queries_LNE = states_LHE.new_empty((length, heads - 2 * keys_1KSE.shape[1], width))
    torch.ops.videoxl.rotate_and_append(states_LHE, tables_R2E, counters, queries_LNE, keys_1KSE, values_1KSE)
    return queries_LNE


def plain_rotate_and_append(
    states_LHE: torch.Tensor,
    tables_R2E: torch.Tensor,
    counters: torch.Tensor,
    queries_LNE: torch.Tensor,
    keys_1KSE: torch.Tensor,
    values_1KSE: torch.Tensor,
) -> None:
    heads, rotated = queries_LNE.shape[1], queries_LNE.shape[1] + keys_1KSE.shape[1]
    rows, places = counters[:, None] + torch.arange(len(states_LHE), device=counters.device)
    cos_L1E, sin_L1E = tables_R2E.index_select(0, rows).unsqueeze(2).unbind(1)
    rotated_LHE = rotate(states_LHE[:, :rotated], cos_L1E, sin_L1E).to(states_LHE.dtype)
    queries_LNE.copy_(rotated_LHE[:, :heads])
    keys_1KSE.index_copy_(2, places, rotated_LHE[:, heads:].transpose(0, 1)[None])
    values_1KSE.index_copy_(2, places, states_LHE[:, rotated:].transpose(0, 1)[None])


def gather_layers(
    dense: Sequence[torch.Tensor],
    coarse: Sequence[torch.Tensor],
    index_MP: torch.Tensor,
    inverse_S2E: torch.Tensor | None,
    tables_M2E: torch.Tensor | None,
    out_XKME: torch.Tensor,
) -> None:
    """Tokens out of two sets of keys or values, in all layers, into ``[layers, K, M, E]``; in float32, rounded once.

    Args:
        dense, coarse: per layer ``[1, K, S, E]``; either may be empty where ``index_MP`` names none of it.
        index_MP: what each token is the mean of: a token of ``dense``, ``-2 - n`` for token ``n`` of ``coarse``, or -1
            for nothing.
        inverse_S2E: cosines and sines that take their positions out of dense tokens.
        tables_M2E: those that put positions into the result.
    """
    torch.ops.videoxl.gather_layers(list(dense), list(coarse), index_MP, inverse_S2E, tables_M2E, out_XKME)


def plain_gather_layers(
    dense: Sequence[torch.Tensor],
    coarse: Sequence[torch.Tensor],
    index_MP: torch.Tensor,
    inverse_S2E: torch.Tensor | None,
    tables_M2E: torch.Tensor | None,
    out_XKME: torch.Tensor,
) -> None:
    flat, shape = index_MP.flatten(), index_MP.shape
    is_dense, is_coarse = ((flat >= 0)[:, None], (flat < -1)[:, None])
    for layer, out_KME in enumerate(out_XKME):
        total = torch.zeros((), device=out_XKME.device)
        if dense:
            rows = flat.clamp_min(0)
            taken = dense[layer][0].index_select(1, rows).float()
            if inverse_S2E is not None:
                taken = rotate(taken, *inverse_S2E.index_select(0, rows).unbind(1))
            total = total + taken * is_dense
        if coarse:
            total = total + coarse[layer][0].index_select(1, (-2 - flat).clamp_min(0)).float() * is_coarse
        mean = total.unflatten(1, shape).sum(2) / (index_MP != -1).sum(1)[:, None]
        out_KME.copy_(mean if tables_M2E is None else rotate(mean, *tables_M2E.unbind(1)))


def _silu_mul_on_gpu(gate_up: torch.Tensor) -> torch.Tensor:
    return fused_kernels.silu_mul(gate_up) if why_plain(gate_up.device) == "" else plain_silu_mul(gate_up)


def _rotate_and_append_on_gpu(*tensors: torch.Tensor) -> None:
    own = fused_kernels.rotate_and_append if why_plain(tensors[0].device) == "" else plain_rotate_and_append
    own(*tensors)


def _gather_layers_on_gpu(dense, coarse, index, inverse, tables, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    fits = why_plain(out.device) == "" and fused_kernels.are_alike(dense, coarse, out)
    own = fused_kernels.gather_layers if fits else plain_gather_layers
    own(dense, coarse, index, inverse, tables, out)


LIBRARY.impl("gather_layers", plain_gather_layers, "CompositeExplicitAutograd")
LIBRARY.impl("gather_layers", _gather_layers_on_gpu, "CUDA")
LIBRARY.impl("silu_mul", plain_silu_mul, "CompositeExplicitAutograd")
LIBRARY.impl("silu_mul", _silu_mul_on_gpu, "CUDA")
LIBRARY.impl("rotate_and_append", plain_rotate_and_append, "CompositeExplicitAutograd")
LIBRARY.impl("rotate_and_append", _rotate_and_append_on_gpu, "CUDA")


@lru_cache
def why_plain(device: torch.device) -> str:
    """Why the kernels are not used on a device; empty where they are. They are compiled, and compared, at first use.

    Warns where they are not used: every token then takes more and smaller kernels.
    """
    reason = fused_kernels.TRITON_MISSING or _what_is_wrong(device)
    if reason:
        warnings.warn(f"{reason}: tokens are written with plain kernels, which takes longer", stacklevel=2)
    return reason


def _what_is_wrong(device: torch.device) -> str:
    try:
        differs = largest_difference(device)
    except Exception as error:  # noqa: BLE001  (of a compiler: of any kind; it is told)
        return f"the Triton kernels do not run on {device} ({type(error).__name__}: {error})"
    return "" if differs < TOLERANCE else f"the Triton kernels are wrong by {differs:.3g} on {device}"


TOLERANCE = 0.1
"""Numbers up to about 8 in bf16, which the plain form of the first two rounds three times."""


def largest_difference(device: torch.device, heads: int = 6, groups: int = 2, width: int = 24) -> float:
    """Kernels against the plain form, on random numbers in bf16 (float32 on a CPU, where Triton's interpreter runs)."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    made = torch.Generator().manual_seed(0)
    states, tables = (
        torch.randn(shape, generator=made).to(device, dtype)
        for shape in ((3, heads + 2 * groups, width), (5, 2, width))
    )
    counters = torch.tensor([1, 2], device=device)
    keys = torch.randn((4, 1, groups, 5, width), generator=made).to(device, dtype)
    index = torch.tensor([[0, 3, -1], [-2, -1, -1], [4, 2, 1], [-6, -1, -1]], device=device)
    positions = torch.randn((5, 2, width), generator=made).to(device)
    found = []
    for silu, append, gather in (
        (plain_silu_mul, plain_rotate_and_append, plain_gather_layers),
        (fused_kernels.silu_mul, fused_kernels.rotate_and_append, fused_kernels.gather_layers),
    ):
        buffers = [torch.zeros((1, groups, 6, width), dtype=dtype, device=device) for _ in range(2)]
        queries = torch.zeros((heads, 3, width), device=device).transpose(0, 1)
        append(states, tables, counters, queries, *buffers)
        gathered = torch.zeros((2, 2, groups, 6, width), dtype=dtype, device=device)
        gather(list(keys[:2]), list(keys[2:]), index, positions, positions[1:], gathered[0, :, :, :4])
        gather(list(keys[:2]), list(keys[2:]), index, None, None, gathered[1, :, :, 1:5])
        found.append([silu(states), queries, *buffers, gathered])
    return max(float((a - b).abs().max()) for a, b in zip(*found))
