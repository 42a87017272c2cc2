"""What a simulated card holds at its peak while a video is read and asked about, and what ``plan`` says of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tests.simulated_gpu.cuda import move, simulated
from tests.simulated_gpu.device import SimulatedDevices
from tests.simulated_gpu.true_size import StandInTokenizer, build
from videoxl.config import decode_from_string
from videoxl.inference.engine import VideoXL
from videoxl.inference.loading import NOT_QUANTIZED, TORCHAO_INT8
from videoxl.inference.plan.footprint import Sizes, footprint
from videoxl.inference.plan.work import WeightSizes
from videoxl.inference.prefill import selective
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.inference.prompt import span_for
from videoxl.memory.kv_cache import KVCache, PreallocatedLayer
from videoxl.memory.types import MemoryState
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.token_scores import kept_count

QUESTION, TOKENS = "What is shown?", 3
READING = "reading"


@dataclass(frozen=True)
class Run:
    """What is read, how, and how it is asked about."""

    family: str
    prefill: str
    frames: int
    decodes: tuple[str, ...] = ("dense",)
    kv_dtype: Any = None
    quantization: str | None = None
    size: tuple[int, int] | None = None
    """Height and width of the frames; default: the square that the vision tower takes."""


@dataclass(frozen=True)
class Held:
    """What a run held on the card, in bytes."""

    config: VideoXLConfig
    sizes: Sizes
    question_tokens: int
    weights: int
    peaks: dict[str, int]
    """While it was read, and with each decode."""
    state: MemoryState
    """Of the memory that was read."""


class SmallLinear(nn.Module):
    """A linear layer that holds as many bytes as bitsandbytes or torchao does, and takes as many for a product."""

    def __init__(self, plain: nn.Linear, kind: str) -> None:
        super().__init__()
        self.kind, self.out_features, self.in_features = kind, plain.out_features, plain.in_features
        numbers = plain.out_features * plain.in_features
        codes, scales = (numbers // 2, numbers // 64) if kind == "nf4" else (numbers, plain.out_features)
        self.register_buffer("weight", torch.empty(codes, dtype=torch.uint8, device="meta"))
        if kind == TORCHAO_INT8:
            self.register_buffer("zero_points", torch.empty(scales, dtype=torch.int8, device="meta"))
        self.register_buffer("scales", torch.empty(scales, dtype=torch.float32, device="meta"))
        self.bias = plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "nf4":
            return F.linear(x, x.new_empty((self.out_features, self.in_features)), self.bias)
        if self.kind == TORCHAO_INT8:
            out = F.linear(x, x.new_empty((self.out_features, self.in_features))) * x.new_empty(self.out_features)
            return out if self.bias is None else out.add_(self.bias)
        sums = torch.empty((*x.shape[:-1], self.out_features), dtype=torch.int32, device=x.device)
        out = x.new_empty(sums.shape)
        return out if self.bias is None else out.add_(self.bias)


def with_small_weights(model: nn.Module, kind: str) -> nn.Module:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not name.startswith(NOT_QUANTIZED):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, SmallLinear(module, kind))
    return model


def engine_of(run: Run, devices: SimulatedDevices, layers: int | None, vision_layers: int | None) -> VideoXL:
    model = build(run.family, layers=layers, vision_layers=vision_layers)
    if run.quantization is not None:
        model = with_small_weights(model, run.quantization)
    model = move(model, devices, torch.bfloat16)
    if run.quantization is None:
        model.model.language_model.fuse_projections()
    return VideoXL(model, StandInTokenizer(), name=run.family)  # type: ignore[arg-type]


def first_tokens(scores_P: torch.Tensor, keep: float) -> torch.Tensor:
    """Stands for the choice of :class:`SelectivePrefill`: as many tokens, where scores have no values."""
    return torch.arange(len(scores_P), device=scores_P.device) < kept_count(len(scores_P), keep)


def hold(run: Run, layers: int | None = None, vision_layers: int | None = None) -> Held:
    """Carry ``run`` out on a simulated card, with fewer layers where they are given."""
    with simulated() as devices, mock.patch.object(selective, "select_tokens", first_tokens):
        engine = engine_of(run, devices, layers, vision_layers)
        weights, peaks = devices.live[0], {}
        strategy, size = choose_prefill(run.prefill, engine.config), run.size or engine.config.picture_size
        film = [np.zeros((*size, 3), np.uint8)] * run.frames
        with devices.counting():
            memory = engine.encode(frames=film, fps=1, max_frames=run.frames, prefill=strategy, kv_dtype=run.kv_dtype)
            peaks[READING] = devices.peak[0]
        peaks |= asked_peaks(run, devices, engine, memory)
        config = engine.config.sized(run.frames, *size) if engine.config.traits.vision.any_size else engine.config
        span = span_for(config, memory.timestamps, engine.chat_format.tokenize)
        sizes = Sizes.of(strategy, config, run.frames, memory.prefix_length, span)
        further = len(engine.chat_format.suffix(QUESTION)) + TOKENS
        return Held(config, sizes, further, weights, peaks, memory.state)


def asked_peaks(run: Run, devices: SimulatedDevices, engine: VideoXL, memory: VideoMemory) -> dict[str, int]:
    """The peak of a question, by decode."""
    peaks = {}
    for decode in run.decodes:
        with devices.counting():
            engine.ask(memory, QUESTION, decode=decode, max_new_tokens=TOKENS)
            peaks[decode] = devices.peak[0]
    return peaks


def hold_asking(run: Run, read: Held) -> dict[str, int]:
    """Peaks of questions to a model with all its layers, about a memory that one with fewer has read."""
    with simulated() as devices:
        engine = engine_of(run, devices, None, None)
        like, buffer = read.state.cache.layers[0], read.state.cache.layers[0].buffer()
        layers = []
        for _ in range(engine.config.text.num_hidden_layers):
            pair = (torch.empty(buffer.keys.shape, dtype=buffer.keys.dtype, device="cuda:0") for _ in range(2))
            layers.append(PreallocatedLayer.holding(*pair, like.length))
        state = replace(read.state, cache=KVCache(layers), coarse_kv={}, model_fingerprint=engine.fingerprint)
        return asked_peaks(run, devices, engine, VideoMemory(state, engine))


def planned(run: Run, held: Held, config: VideoXLConfig, decodes: Sequence[str]) -> dict[str, int]:
    """Bytes that ``plan`` expects for a model of ``config`` in every phase of a run."""
    if run.size is not None:
        config = config.sized(run.frames, *run.size)
    weights, found = WeightSizes.of(config).nbytes(2, run.quantization), {}
    for decode in ("dense", *decodes):
        need = footprint(
            config,
            held.sizes,
            held.question_tokens,
            2,
            choose_prefill(run.prefill, config),
            decode_from_string(decode),
            kv_dtype=run.kv_dtype,
            quantization=run.quantization,
        )
        kept = weights + need.memory - need.host + need.spare
        found |= {READING: kept + need.working, decode: kept + need.question + need.asking}
    return {phase: found[phase] for phase in (READING, *decodes)}
