"""The plan against the peak of a simulated card: families, prefills, decodes, offload, and small keys and weights.

Models of true width with two layers on either side, whose peaks are those of activations more than of layers; at all
of their layers the same was compared by hand (``docs/notes/plan.md``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tests.simulated_gpu.cuda import move, simulated
from tests.simulated_gpu.device import SimulatedDevices
from tests.simulated_gpu.true_size import StandInTokenizer, build
from videoxl.config import decode_from_string
from videoxl.inference.engine import VideoXL
from videoxl.inference.loading import NOT_QUANTIZED
from videoxl.inference.plan.footprint import Footprint, Sizes, footprint
from videoxl.inference.plan.work import WeightSizes
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.inference.prompt import span_for

LAYERS = 2
FRAMES = 96
TOLERANCE = 0.03
QUESTION, TOKENS = "What is shown?", 3
DENSE, TWO_LEVELS = "dense", "bilevel:top_k=1"
CASES: tuple[tuple[str, str, str | None, str | None, tuple[str, ...]], ...] = (
    ("video-xl", "beacon:ratio=8", "fp8", None, (DENSE,)),
    ("video-xl", "full", None, None, (DENSE,)),
    ("video-xl-pro", "selective", None, None, ()),
    ("video-xl-pro", "full", None, "nf4", (DENSE,)),
    ("video-xl-2", "full", "int8", None, (DENSE,)),
    ("video-xl-2", "chunked:vision_batch=6", "int8", "nf4", (DENSE, TWO_LEVELS)),
    ("video-xl-2", "chunked:offload=true", None, "int8", (DENSE, TWO_LEVELS)),
)
"""Family, prefill, ``kv_dtype``, ``quantization``, decodes."""


class SmallLinear(nn.Module):
    """A linear layer that holds as many bytes as bitsandbytes does, and takes as many for a product."""

    def __init__(self, plain: nn.Linear, kind: str) -> None:
        super().__init__()
        self.kind, self.out_features, self.in_features = kind, plain.out_features, plain.in_features
        numbers = plain.out_features * plain.in_features
        codes, scales = (numbers // 2, numbers // 64) if kind == "nf4" else (numbers, plain.out_features)
        self.register_buffer("weight", torch.empty(codes, dtype=torch.uint8, device="meta"))
        self.register_buffer("scales", torch.empty(scales, dtype=torch.float32, device="meta"))
        self.bias = plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "nf4":
            return F.linear(x, x.new_empty((self.out_features, self.in_features)), self.bias)
        sums = torch.empty((*x.shape[:-1], self.out_features), dtype=torch.int32, device=x.device)
        out = x.new_empty(sums.shape)
        return out if self.bias is None else out.add_(self.bias)


def with_small_weights(model: nn.Module, kind: str) -> nn.Module:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not name.startswith(NOT_QUANTIZED):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, SmallLinear(module, kind))
    return model


def engine_of(family: str, devices: SimulatedDevices, quantization: str | None) -> VideoXL:
    model = build(family, layers=LAYERS, vision_layers=LAYERS)
    if quantization is not None:
        model = with_small_weights(model, quantization)
    model = move(model, devices, torch.bfloat16)
    if quantization is None:
        model.model.language_model.fuse_projections()
    return VideoXL(model, StandInTokenizer(), name=family)  # type: ignore[arg-type]


def close(planned: int, peak: int, what: str) -> None:
    assert abs(planned / peak - 1) <= TOLERANCE, f"{what}: {planned / 1e9:.3f} GB planned, {peak / 1e9:.3f} GB held"


@pytest.mark.parametrize(("family", "prefill", "kv_dtype", "quantization", "decodes"), CASES)
def test_the_plan_is_the_peak(
    family: str, prefill: str, kv_dtype: Any, quantization: str | None, decodes: tuple[str, ...]
) -> None:
    with simulated() as devices:
        engine = engine_of(family, devices, quantization)
        weights = devices.live[0]
        assert WeightSizes.of(engine.config).nbytes(2, quantization) == pytest.approx(weights, rel=2e-3)
        strategy, side = choose_prefill(prefill, engine.config), engine.config.vision_config.image_size
        frames = [np.zeros((side, side, 3), np.uint8)] * FRAMES
        with devices.counting():
            memory = engine.encode(frames=frames, fps=1, prefill=strategy, kv_dtype=kv_dtype)
            peak = devices.peak[0]
        span = span_for(engine.config, memory.timestamps, engine.chat_format.tokenize)
        sizes = Sizes.of(strategy, engine.config, FRAMES, memory.prefix_length, span)

        def planned(decode: str) -> Footprint:
            further = len(engine.chat_format.suffix(QUESTION)) + TOKENS
            return footprint(
                engine.config,
                sizes,
                further,
                2,
                strategy,
                decode_from_string(decode),
                kv_dtype=kv_dtype,
                quantization=quantization,
            )

        found = planned(DENSE)
        kept = weights + found.memory - found.host + found.spare
        if prefill != "selective":  # numbers have no values here, so what is kept has another length
            assert found.memory == memory.nbytes
        close(kept + found.working, peak, f"reading with {prefill}")
        for decode in decodes:
            with devices.counting():
                engine.ask(memory, QUESTION, decode=decode, max_new_tokens=TOKENS)
                peak = devices.peak[0]
            close(kept + planned(decode).question, peak, f"asking with {decode}")
