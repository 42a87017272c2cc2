"""What a graphics card can do, and which attention kernel torch picks on it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch

Backend = Literal["cudnn", "flash", "efficient", "math"]
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Card:
    """One model of card. Rates are rounded measurements of others; they turn counts into rough seconds."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    bytes_per_second: float
    half_flops: float
    """Matrix products in fp16 or bf16."""
    single_flops: float
    attention_flops: dict[Backend, float]
    order: tuple[Backend, ...]
    """Backends of ``scaled_dot_product_attention``, the preferred one first."""

    def gemm_flops(self, dtype: torch.dtype) -> float:
        return self.half_flops if dtype in HALF else self.single_flops


H200 = Card(
    "NVIDIA H200",
    (9, 0),
    141 * 10**9,
    4.3e12,
    788e12,
    50e12,
    {"cudnn": 600e12, "flash": 400e12, "efficient": 180e12, "math": 50e12},
    ("cudnn", "flash", "efficient", "math"),
)
A100 = Card(
    "NVIDIA A100-SXM4-80GB",
    (8, 0),
    80 * 10**9,
    1.9e12,
    280e12,
    19e12,
    {"cudnn": 190e12, "flash": 190e12, "efficient": 100e12, "math": 19e12},
    ("flash", "efficient", "math", "cudnn"),
)
RTX_4090 = Card(
    "NVIDIA GeForce RTX 4090",
    (8, 9),
    24 * 10**9,
    0.95e12,
    160e12,
    60e12,
    {"cudnn": 120e12, "flash": 120e12, "efficient": 70e12, "math": 20e12},
    ("flash", "efficient", "math", "cudnn"),
)
T4 = Card(
    "Tesla T4",
    (7, 5),
    15 * 10**9,
    0.3e12,
    40e12,
    8e12,
    {"cudnn": 20e12, "flash": 20e12, "efficient": 15e12, "math": 5e12},
    ("flash", "efficient", "math", "cudnn"),
)


@dataclass(frozen=True)
class AttentionCall:
    """Shapes of one ``scaled_dot_product_attention``."""

    dtype: torch.dtype
    heads: int
    key_heads: int
    new: int
    total: int
    width: int
    value_width: int
    mask: Literal["none", "tensor", "lower right"]
    causal: bool
    grouped: bool
    """Whether ``enable_gqa`` was given."""
    contiguous_heads: bool
    """Whether numbers of one head lie side by side."""

    @property
    def aligned_at_begin(self) -> bool:
        return self.causal and self.new != self.total


def choose_backend(card: Card, call: AttentionCall, enabled: Collection[Backend]) -> Backend:
    """The kernel that torch takes: the first of the card's order that is enabled and can do it.

    Raises ``RuntimeError`` where torch would: no kernel is left, or the numbers of heads do not fit.
    """
    same = call.heads == call.key_heads
    if not same and not (call.grouped and call.heads % call.key_heads == 0):
        raise RuntimeError(f"attention with {call.heads} query and {call.key_heads} key heads")
    for backend in card.order:
        if backend in enabled and _can(card, backend, call, same):
            return backend
    raise RuntimeError(f"no attention kernel for {call} among {sorted(enabled)}")


def _can(card: Card, backend: Backend, call: AttentionCall, same_heads: bool) -> bool:
    if backend == "math":
        return True
    if not call.contiguous_heads or call.aligned_at_begin:
        return False
    if backend == "efficient":
        wide = call.dtype in HALF and card.capability >= (5, 0)
        return (wide or call.dtype == torch.float32) and call.width % 8 == 0 and same_heads
    if call.dtype not in HALF or card.capability < (8, 0):
        return False
    if backend == "flash":
        return call.width == call.value_width <= 256 and call.mask != "tensor"
    modern = card.capability >= (8, 0) and call.width <= 128 and call.width % 8 == 0
    return modern and call.mask != "lower right" and call.total > 1
