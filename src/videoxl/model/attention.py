"""Attention of the language model: the plan of a forward, and the kernels that carry it out.

Every forward runs under an :class:`AttentionPlan`. The plan gets un-rotated queries, keys and values of one layer and
returns the attention output; rotating, caching and masking are its business. :class:`CausalPlan` is plain causal
attention. A window of Video-XL (:mod:`videoxl.model.beacon`), a tile of a chunked prefill and the scoring of a question
are plans of their own.

Shapes: ``B`` batch, ``N`` query heads, ``K`` key/value heads, ``R = N / K`` query heads per key head, ``L`` new tokens,
``S`` tokens with the cache, ``E`` head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import CausalBias, causal_lower_right
from transformers import AttentionInterface

from videoxl.model.attention_parts import Part, plain_with_sums
from videoxl.model.flash import HALF, flash_attention, flash_with_sums, has_flash, is_flash

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values ``[B, K, S, E]``, or cosines and sines ``[B, L, E]``."""
Mask = torch.Tensor | CausalBias | None
"""``[B or 1, 1, L, S]`` or ``[L, S]``: bool (True: seen), or added to the scores; ``[B, S]`` for flash kernels."""

GPU_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels of ``scaled_dot_product_attention`` that may run: cuDNN's plans every new length anew, and a cache grows."""
ROWS_ON_CPU = 256
"""Queries that attend together on a CPU."""


class TokenCache(Protocol):
    """What a plan appends to: :class:`~videoxl.memory.kv_cache.KVCache`, or a ``Cache`` of transformers."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, /) -> Pair:
        """Append ``[B, K, L, E]`` to a layer; returns all of its keys and values ``[B, K, S, E]``."""
        ...

    def get_seq_length(self) -> int:
        """Tokens in the first layer."""
        ...


class AttentionLayer(Protocol):
    """What kernels and plans need to know of the layer that calls them."""

    layer_idx: int
    scaling: float
    kernel: str
    """``sdpa``, ``eager``, or a flash attention of transformers."""

    @property
    def dropout(self) -> float:
        """Share of attention weights dropped now: 0 outside training."""
        ...


class AttentionPlan(Protocol):
    """One forward's attention. Passed to the language model as ``plan=``."""

    @property
    def beacon_slots(self) -> torch.Tensor | None:
        """Places ``[n]`` of the rows that go through the beacon projections; None where there are none."""
        ...

    def attend(
        self, layer: AttentionLayer, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        """Un-rotated queries, keys and values of the new tokens -> attention output ``[B, N, L, E]``."""
        ...


class Watch(Protocol):
    """Somebody who looks at the queries of a forward, as evidence for an answer is gathered."""

    @property
    def layers(self) -> frozenset[int]:
        """The layers whose queries are wanted; those of others may be left out."""
        ...

    def see(self, layer: int, queries_BNLE: torch.Tensor, /) -> None:
        """Rotated queries of the new tokens in one layer. They may be kept, not changed."""
        ...


class CausalPlan:
    """Plain causal attention on top of a cache.

    Without a mask no ``L x S`` mask is built on a GPU, and one of at most ``ROWS_ON_CPU x S`` on a CPU.
    """

    beacon_slots: torch.Tensor | None = None

    def __init__(
        self,
        tables: Callable[[torch.Tensor], Pair],
        cache: TokenCache | None = None,
        mask: Mask = None,
        watch: Watch | None = None,
    ) -> None:
        """
        Args:
            tables: gives cosines and sines ``[B, L, E]`` of the new tokens, on the device and in the dtype of a tensor.
            cache: gets the rotated keys and the values; None keeps nothing.
            mask: replaces the causal one.
            watch: is shown the queries.
        """
        self.tables, self.cache, self.mask, self.watch = tables, cache, mask, watch
        self._made: dict[tuple[torch.device, torch.dtype], Pair] = {}

    def attend(
        self, layer: AttentionLayer, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        cos, sin = self._tables_like(keys_BKLE)
        heads = queries_BNLE.shape[1]
        both = rotate(torch.cat((queries_BNLE, keys_BKLE), dim=1), cos, sin)  # at once: half as many small kernels
        queries, keys, values = both[:, :heads], both[:, heads:], values_BKLE
        if self.watch is not None:
            self.watch.see(layer.layer_idx, queries)
        if self.cache is not None:
            keys, values = self.cache.update(keys, values, layer.layer_idx)
        if self.mask is None:
            return causal_attention(layer, queries, keys, values)
        mask = self.mask.to(queries.device) if isinstance(self.mask, torch.Tensor) else self.mask
        return masked_attention(layer, queries, keys, values, mask)

    def _tables_like(self, states: torch.Tensor) -> Pair:
        key = (states.device, states.dtype)
        made = self._made.get(key)
        if made is None:
            cos, sin = self.tables(states)
            made = self._made[key] = (cos.unsqueeze(1), sin.unsqueeze(1))
        return made


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding in the half-split form; ``cos`` and ``sin`` broadcast to ``states`` ``[..., L, E]``.

    The first half of ``sin`` is negative, as :class:`~videoxl.model.layers.RotaryEmbedding` gives it.
    """
    return states * cos + states.roll(states.shape[-1] // 2, -1) * sin


def rotate_wide(states: torch.Tensor, tables: Pair) -> torch.Tensor:
    """:func:`rotate` with tables in float32: computed in float32 and rounded once, to the dtype of ``states``."""
    return rotate(states, *tables).to(states.dtype)


def causal_attention(
    layer: AttentionLayer, q_BNLE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor
) -> torch.Tensor:
    """Attention of the last ``L`` of ``S`` tokens, causal and aligned at the end: ``[B, N, L, E]``.

    On a CPU a few rows at a time, over the keys they see: the kernel there computes what a mask hides, too.
    """
    length, total = q_BNLE.shape[2], k_BKSE.shape[2]
    if layer.kernel == "sdpa" and not layer.dropout and is_flash(q_BNLE, k_BKSE):
        return flash_attention(q_BNLE, k_BKSE, v_BKSE, scale=layer.scaling, causal=True)
    if length == 1:
        return masked_attention(layer, q_BNLE, k_BKSE, v_BKSE, None)
    if q_BNLE.device.type != "cpu" or length <= ROWS_ON_CPU:
        return _causal_rows(layer, q_BNLE, k_BKSE, v_BKSE)
    pieces, end = [], total - length
    for q in q_BNLE.split(ROWS_ON_CPU, dim=2):
        end += q.shape[2]
        pieces.append(_causal_rows(layer, q, k_BKSE[:, :, :end], v_BKSE[:, :, :end]))
    return torch.cat(pieces, dim=2)


def _causal_rows(
    layer: AttentionLayer, q_BNLE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor
) -> torch.Tensor:
    new, total = q_BNLE.shape[2], k_BKSE.shape[2]
    mask = _end_aligned_mask(layer.kernel, new, total, q_BNLE.device)
    return masked_attention(layer, q_BNLE, k_BKSE, v_BKSE, mask, causal=1 < new == total)


def _end_aligned_mask(kernel: str, new: int, total: int, device: torch.device) -> Mask:
    """What ``new`` tokens at the end of ``total`` may see, in the form the kernel is fastest with.

    None where no mask is needed: one new token, nothing before the new ones, or a kernel with a flag for it.
    """
    if new in (1, total) or "flash" in kernel:
        return None
    if kernel != "eager" and device.type == "cuda":
        return causal_lower_right(new, total)
    return torch.ones(new, total, dtype=torch.bool, device=device).tril_(total - new)


def attention_with_sums(
    layer: AttentionLayer, q_BNLE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, mask: torch.Tensor | None
) -> Part:
    """Attention over one set of keys, to be merged with that over others (:mod:`videoxl.model.attention_parts`).

    ``mask``: bool, broadcast to ``[B, 1, L, S]``; None: every row sees all keys. Dropout is not applied.
    """
    if mask is None and is_flash(q_BNLE, k_BKSE):
        return flash_with_sums(q_BNLE, k_BKSE, v_BKSE, scale=layer.scaling, causal=False)
    return plain_with_sums(q_BNLE, k_BKSE, v_BKSE, mask, scale=layer.scaling)


def masked_attention(
    layer: AttentionLayer,
    q_BNLE: torch.Tensor,
    k_BKSE: torch.Tensor,
    v_BKSE: torch.Tensor,
    mask: Mask,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Attention under a mask (or none), ``[B, N, L, E]``, in the kernel the model was loaded with.

    Anything but ``eager`` and flash attention is torch's ``scaled_dot_product_attention`` with grouped heads, which
    reads every key once instead of repeating it per query head. ``causal``: the new tokens are all there are.
    """
    if "flash" in layer.kernel:
        return _flash(layer, q_BNLE, k_BKSE, v_BKSE, mask)
    if layer.kernel == "eager":
        return eager_attention(layer, q_BNLE, k_BKSE, v_BKSE, mask, causal=causal)
    attend = partial(
        F.scaled_dot_product_attention,
        attn_mask=mask,
        dropout_p=layer.dropout,
        is_causal=causal,
        scale=layer.scaling,
    )
    if not q_BNLE.is_cuda:
        return grouped_attention(attend, q_BNLE, k_BKSE, v_BKSE)
    with sdpa_kernel(GPU_KERNELS):
        if q_BNLE.dtype in HALF and not isinstance(mask, torch.Tensor) and has_flash(q_BNLE.device):
            return attend(q_BNLE, k_BKSE, v_BKSE, enable_gqa=True)  # the flash kernel reads every key once
        return grouped_attention(attend, q_BNLE, k_BKSE, v_BKSE)


def grouped_attention(
    attend: Callable[..., torch.Tensor], q_BNLE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor
) -> torch.Tensor:
    """Grouped heads through a kernel ``attend(q, k, v)`` that knows none, without a copy of the keys per query head.

    ``enable_gqa`` repeats keys wherever no flash kernel runs. Here one new token's heads of a group become rows; more
    tokens' heads become a batch over the same keys, or a call each where there is a batch already.
    """
    batch, heads, length, width = q_BNLE.shape
    groups = k_BKSE.shape[1]
    if heads == groups:
        return attend(q_BNLE, k_BKSE, v_BKSE)
    if length == 1:
        return attend(q_BNLE.reshape(batch, groups, -1, width), k_BKSE, v_BKSE).reshape(batch, heads, 1, width)
    q_BKRLE = q_BNLE.unflatten(1, (groups, -1))
    if batch == 1:
        q_RKLE = q_BKRLE[0].transpose(0, 1)
        keys, values = (states.expand(len(q_RKLE), -1, -1, -1) for states in (k_BKSE, v_BKSE))
        return attend(q_RKLE, keys, values).transpose(0, 1).flatten(0, 1)[None]
    return torch.stack([attend(q_BKLE, k_BKSE, v_BKSE) for q_BKLE in q_BKRLE.unbind(2)], dim=2).flatten(1, 2)


def eager_attention(
    layer: AttentionLayer,
    q_BNLE: torch.Tensor,
    k_BKSE: torch.Tensor,
    v_BKSE: torch.Tensor,
    mask: Mask,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Attention written out, weights in float32: the plain reference. A row that sees nothing gives NaN."""
    batch, heads, length, width = q_BNLE.shape
    groups = k_BKSE.shape[1]
    rows = q_BNLE.reshape(batch, groups, -1, width)  # of all heads of a group, so that no keys are repeated
    scores = (rows @ k_BKSE.transpose(-1, -2)).unflatten(2, (-1, length)) * layer.scaling
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril_()
    if isinstance(mask, torch.Tensor):
        if mask.ndim == 4:
            mask = mask.unsqueeze(2)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32).to(q_BNLE.dtype), layer.dropout)
    return (weights.flatten(2, 3) @ v_BKSE).reshape(batch, heads, length, width)


def _flash(
    layer: AttentionLayer, q_BNLE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, mask: Mask
) -> torch.Tensor:
    """A flash attention that transformers knows: it aligns a causal mask at the end, as wanted here."""
    out_BLNE, _ = AttentionInterface()[layer.kernel](
        layer,
        q_BNLE,
        k_BKSE,
        v_BKSE,
        mask,
        dropout=layer.dropout,
        scaling=layer.scaling,
        is_causal=q_BNLE.shape[2] > 1,
    )
    out_BNLE: torch.Tensor = out_BLNE.transpose(1, 2)
    return out_BNLE


def padding_mask(padding_BS: torch.Tensor, new: int, kernel: str) -> Mask:
    """The causal mask ``[B, 1, L, S]`` of a batch with padding; None where nothing is hidden.

    ``padding_BS`` is 1 (or True) where a token may be seen. A padding token sees itself, so that no row is empty.
    """
    seen_BS = padding_BS.bool()
    if not torch.compiler.is_compiling() and bool(seen_BS.all()):  # a graph cannot look
        return None
    if "flash" in kernel:
        return padding_BS
    total = padding_BS.shape[1]
    causal_LS = torch.ones(new, total, dtype=torch.bool, device=padding_BS.device).tril_(total - new)
    itself_LS = torch.eye(total, dtype=torch.bool, device=padding_BS.device)[total - new :]
    return (causal_LS & seen_BS[:, None, None]) | itself_LS
