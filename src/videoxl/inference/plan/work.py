"""Count the operations and the weights of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from videoxl.config import BeaconPrefill, ChunkedPrefill, PrefillStrategy, StateKVPrefill
from videoxl.inference.loading import NOT_QUANTIZED, TORCHAO_INT8
from videoxl.inference.prefill.choose import memory_tokens
from videoxl.inference.prompt import VisualSpan
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration


def prefill_work(
    strategy: PrefillStrategy, config: VideoXLConfig, prefix_tokens: int, span: VisualSpan
) -> tuple[int, float]:
    """Count the tokens that go through the language model, and roughly the pairs of them that attend to each other."""
    kept, visual = memory_tokens(strategy, config, prefix_tokens, span), span.visual_tokens
    if isinstance(strategy, BeaconPrefill):  # what is kept are beacons, each window sees those before it
        return kept + visual, (kept + visual) * (kept + (strategy.window or config.beacon_window)) / 2
    if isinstance(strategy, ChunkedPrefill):  # a window, and the timestamps before it; timestamps see everything
        times, groups = len(span.ids) - visual, len(span.groups)
        window = (strategy.chunk_size - strategy.step_size / 2) * len(span.ids) / groups
        return kept, kept * min(window + times / 2, kept / 2) + times * kept / 2
    if isinstance(strategy, StateKVPrefill):  # what is carried, and the step itself; scores are computed twice
        per_step = strategy.step * len(span.ids) / len(span.groups)
        return kept, 1.5 * kept * min(strategy.budget + per_step / 2, kept / 2)
    return kept, kept**2 / 2


def model_flops(config: VideoXLConfig, frames: int, tokens: int, pairs: float | None = None) -> dict[str, float]:
    """Count the floating-point operations of the vision side and of a prefill of ``tokens``.

    ``pairs``: how many pairs of tokens attend to each other; default those of a full causal prefill.
    """
    v, t = config.vision, config.text
    patches, grid, c = config.patches, config.token_grid**2, v.hidden_size
    tower = v.num_hidden_layers * (
        8 * patches * c * c + 4 * patches * patches * c + 4 * patches * c * v.intermediate_size
    )
    stages = config.synthesis_stages if config.traits.token_synthesis else 0
    lengths = [config.frames_per_group >> stage for stage in range(stages)]  # of the time axis: 4, 2
    per_group = grid * c * c * sum(16 * length + 27 * 2 * length // 2 for length in lengths)
    synthesis = per_group / config.frames_per_group
    kv_share = t.num_key_value_heads / t.num_attention_heads
    queries = t.num_attention_heads * config.head_width
    linear = t.num_hidden_layers * (
        4 * t.hidden_size * queries * (1 + kv_share) + 6 * t.hidden_size * t.intermediate_size
    )
    attention = 4 * t.num_hidden_layers * queries * (float(tokens) ** 2 / 2 if pairs is None else pairs)
    return {"vision": frames * (tower + synthesis), "prefill": tokens * linear + attention}


@dataclass(frozen=True)
class WeightSizes:
    """How many numbers a model has, from one that is never filled."""

    numbers: int
    """In all of its weights."""
    matrices: tuple[tuple[int, int], ...]
    """Rows and columns of those that quantising rounds: the language model's, without embeddings and head."""

    @classmethod
    def of(cls, config: VideoXLConfig) -> WeightSizes:
        with torch.device("meta"):
            model = VideoXLForConditionalGeneration(config)
        rounded = [
            (module.out_features, module.in_features)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith(NOT_QUANTIZED)
        ]
        return cls(sum(p.numel() for p in model.parameters()), tuple(rounded))

    def nbytes(self, itemsize: int, quantization: str | None = None) -> int:
        """Bytes of all weights; ``itemsize``: of a number that is not rounded."""
        return self.kept_bytes(itemsize, quantization) + self.rounded_bytes(quantization)

    def kept_bytes(self, itemsize: int, quantization: str | None = None) -> int:
        """Bytes of what stays as it is: with ``quantization`` vision side, embeddings, head, norms and biases."""
        rounded = sum(rows * columns for rows, columns in self.matrices) if quantization else 0
        return (self.numbers - rounded) * itemsize

    def rounded_bytes(self, quantization: str | None) -> int:
        """Bytes of rounded matrices: ``int8`` has a scale per row, ``nf4`` one per 64 numbers, both in fp32.

        torchao has a scale per row, too, and a zero point of one byte.
        """
        if quantization == "int8":
            return sum(rows * columns + 4 * rows for rows, columns in self.matrices)
        if quantization == TORCHAO_INT8:
            return sum(rows * columns + 5 * rows for rows, columns in self.matrices)
        if quantization == "nf4":
            return sum(-(-rows * columns // 2) + 4 * -(-rows * columns // NF4_BLOCK) for rows, columns in self.matrices)
        return 0


NF4_BLOCK = 64
"""Numbers that share a scale in ``nf4``."""


def weight_bytes(config: VideoXLConfig, itemsize: int, quantization: str | None = None) -> int:
    """Bytes of all weights, exactly."""
    return WeightSizes.of(config).nbytes(itemsize, quantization)
