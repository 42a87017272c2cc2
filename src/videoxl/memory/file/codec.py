"""Encode keys and values for a file: as they are, rounded to bfloat16, or in eight bits with scales.

In eight bits, keys are taken *before* rotary embedding and scaled per channel: for every block of tokens, head and
channel the middle of the range is subtracted and its half width is the scale. Values are scaled per token and head.

Why so: key projections of Qwen2 have large biases in a few channels. Before rotation they are constants, which the
offsets take away. Rotation turns them into waves along the fast channels, which no scale fits: with biases of 20 (keys
are of size 1) the error of attention logits under int8 is 0.007 un-rotated, 0.018 rotated, and 0.065 rotated with one
scale per token; with biases of 100 it is 0.007, 0.078 and 0.32. Without biases all are alike (0.0065 to 0.0071).

Relative errors (root mean square) in the embedded models after 64 groups, held in float32, "biased" with key biases of
50; the last two columns are of the question's tokens:

========  ==========  ========  ========  =================  ========
dtype     model       keys      values    attention outputs  logits
========  ==========  ========  ========  =================  ========
``bf16``  Video-XL-2  0.0017    0.0017    0.0044             0.0014
``bf16``  Video-XL    0.0017    0.0017    0.0022             0.00031
``bf16``  biased      0.0018    0.0017    0.024              0.011
``int8``  Video-XL-2  0.0024    0.0054    0.0038             0.0013
``int8``  Video-XL    0.0033    0.0052    0.0049             0.0012
``int8``  biased      0.00029   0.0053    0.0088             0.0038
``fp8``   Video-XL-2  0.016     0.025     0.031              0.01
``fp8``   Video-XL    0.021     0.024     0.025              0.0051
``fp8``   biased      0.002     0.025     0.04               0.016
========  ==========  ========  ========  =================  ========

Answers about films of the generated world, 96 and 91 questions: how many are right from the exact memory, and per dtype
how many are the same text as from that, and how many right. ``two levels`` reads the two best blocks beside the first
and the last densely, ``averages`` only these two:

============  ==========  =====  ============  ============  ============
model         read        exact  ``bf16``      ``int8``      ``fp8``
============  ==========  =====  ============  ============  ============
``tiny``     dense       89 %   100 %, 89 %   100 %, 89 %   100 %, 89 %
``tiny``     two levels  80 %   100 %, 80 %   100 %, 80 %   99 %, 81 %
``tiny``     averages    46 %   100 %, 46 %   100 %, 46 %   96 %, 46 %
``tiny-v1``  dense       98 %   100 %, 98 %   100 %, 98 %   99 %, 97 %
============  ==========  =====  ============  ============  ============

``int8`` is the better choice of the two everywhere; ``fp8`` is as large. ``benchmarks/memory_file.py`` measures this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Which = Literal["keys", "values"]
Parts = dict[str, torch.Tensor]
"""Encoded tensors of one layer of one block, by name."""

PLAIN = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EIGHT_BITS = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}
"""Dtype and its largest number, by name."""
SAVE_DTYPES = ("auto", "bf16", "int8", "fp8")
SMALLEST_SCALE = 1e-12
LARGEST_SCALE = 1e30
"""Scales and offsets are smaller, so that what they make of codes is finite."""
NAN_OF_FP8 = 0x7F


@dataclass(frozen=True)
class Codec:
    """A way to encode keys and values ``[K, T, E]``; ``name``: one of :data:`PLAIN` or :data:`EIGHT_BITS`."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in PLAIN and self.name not in EIGHT_BITS:
            raise ValueError(f"unknown dtype {self.name!r}; allowed: {', '.join((*PLAIN, *EIGHT_BITS))}")

    @property
    def rotated(self) -> bool:
        """Whether keys are written rotated."""
        return self.name in PLAIN

    def layout(self, heads: int, tokens: int, width: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """List dtype and shape of every part of one layer of a block."""
        whole = (heads, tokens, width)
        if self.name in PLAIN:
            return {"keys": (PLAIN[self.name], whole), "values": (PLAIN[self.name], whole)}
        packed = EIGHT_BITS[self.name][0]
        channels = (torch.float32, (heads, width))
        return {
            "keys": (packed, whole),
            "key_offsets": channels,
            "key_scales": channels,
            "values": (packed, whole),
            "value_scales": (torch.float32, (heads, tokens)),
        }

    def encode(self, which: Which, states_KTE: torch.Tensor) -> Parts:
        """Encode keys or values. Where :attr:`rotated` is False, keys must be un-rotated."""
        if self.name in PLAIN:
            return {which: states_KTE.to(PLAIN[self.name])}
        states = states_KTE.float()
        if which == "values":
            scales = states.abs().amax(2, keepdim=True)
            return {"values": self._pack(states, scales), "value_scales": scales[:, :, 0]}
        low, high = states.aminmax(dim=1, keepdim=True)
        offsets, scales = (low + high) / 2, (high - low) / 2
        packed = self._pack(states - offsets, scales)
        return {"keys": packed, "key_offsets": offsets[:, 0], "key_scales": scales[:, 0]}

    def decode(self, which: Which, parts: Parts) -> torch.Tensor:
        """Decode keys or values: to fp32 from eight bits, otherwise as written."""
        if self.name in PLAIN:
            return parts[which]
        states = parts[which].float().div_(EIGHT_BITS[self.name][1])
        if which == "values":
            return states.mul_(parts["value_scales"][:, :, None])
        return states.mul_(parts["key_scales"][:, None]).add_(parts["key_offsets"][:, None])

    def finite(self, which: Which, parts: Parts) -> bool:
        """Whether keys or values decode to finite numbers."""
        if self.name in PLAIN:
            return _finite(parts[which])
        scales = [parts[name] for name in self.names(which) if name != which]
        codes = parts[which]
        whole = codes.dtype == torch.int8 or bool((codes.view(torch.uint8) & 0x7F).max() < NAN_OF_FP8)
        return whole and all(_finite(part) and float(part.abs().max()) < LARGEST_SCALE for part in scales)

    def names(self, which: Which) -> tuple[str, ...]:
        """Name the parts that :meth:`decode` needs."""
        if self.name in PLAIN:
            return (which,)
        return ("keys", "key_offsets", "key_scales") if which == "keys" else ("values", "value_scales")

    def _pack(self, states: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        dtype, largest = EIGHT_BITS[self.name]
        scaled = states * (largest / scales.clamp_min(SMALLEST_SCALE))
        return (scaled.round() if dtype == torch.int8 else scaled).clamp(-largest, largest).to(dtype)


def _finite(part: torch.Tensor) -> bool:
    """Whether a tensor, which is not empty, holds finite numbers only: its extremes do, as NaN would be both."""
    low, high = part.aminmax()
    return bool(low.isfinite() and high.isfinite())


def codec_for(dtype: str | None, held: torch.dtype) -> Codec:
    """Choose the codec for a ``dtype`` of ``VideoMemory.save``; ``auto``: as the memory is held."""
    if dtype is None or dtype == "auto":
        return Codec(str(held).removeprefix("torch."))
    if dtype not in SAVE_DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; allowed: {', '.join(SAVE_DTYPES)}")
    return Codec("bfloat16" if dtype == "bf16" else dtype)
