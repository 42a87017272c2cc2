"""Which check belongs to which kind of case. Each compares everything that its kind records."""

from __future__ import annotations

from collections.abc import Callable

from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.parity.checks import memory, pro, v1, v1_inputs, v2, v2_inputs
from videoxl.parity.golden import Case

INPUT_CHECKS: dict[str, Callable[[Case], None]] = {
    "v1_anyres_grid": v1_inputs.anyres_grid,
    "v1_preprocess": v1_inputs.preprocess,
    "v1_sampling": v1_inputs.sampling,
    "v1_trace": v1.trace,
    "v2_chunk_mask": memory.chunk_mask,
    "v2_preprocess": v2_inputs.preprocess,
    "v2_sampling": v2_inputs.sampling,
    "v2_time_in_prompt": v2_inputs.time_in_prompt,
}
"""Kinds that need no model."""
MODEL_CHECKS: dict[str, Callable[[Case, VideoXLForConditionalGeneration], None]] = {
    "v1_e2e": v1.end_to_end,
    "v1_train": v1.train,
    "pro_e2e": pro.end_to_end,
    "v2_bilevel": memory.bilevel,
    "v2_chunk": memory.chunk,
    "v2_dts": v2.token_synthesis,
    "v2_encode": v2.encode,
    "v2_pure": v2.pure,
    "v2_pure_image": v2.pure_image,
    "v2_train": v2.train,
}
KINDS = frozenset({*INPUT_CHECKS, *MODEL_CHECKS})
"""All kinds of cases that this version can check."""
