"""What the log says of a run's speed: tokens a second, the share of a device's rate, the wait for data, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Work:
    """Operations of forward and backward in the language model, after Kaplan et al.: 2 for every weight and token
    forward, and twice as many backward; half of these where the weight is frozen, since gradients only pass through.
    Attention's scores and what the vision side computes are not counted, nor what checkpointing computes again."""

    per_token: float = 0.0
    per_label: float = 0.0
    """Of the head, whose logits are computed where labels are."""

    @classmethod
    def of(cls, model: nn.Module) -> Work:
        """The work of a model as it is trained; an embedding is looked up and multiplies nothing."""
        named = [(n, p) for n, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in n]
        layers = [p for n, p in named if "language_model." in n]
        head = [p for n, p in named if "lm_head" in n] or _tied(model)
        return cls(_operations(layers), _operations(head))


def _operations(weights: Sequence[nn.Parameter]) -> float:
    return float(sum((6 if p.requires_grad else 4) * p.numel() for p in weights))


def _tied(model: nn.Module) -> list[nn.Parameter]:
    """An embedding that is the head, too."""
    return [p for n, p in model.named_parameters() if n.endswith("language_model.embed_tokens.weight")]


class Throughput:
    """Counts between two entries of the log."""

    def __init__(self, work: Work | None = None, peak_flops: float | None = None) -> None:
        """``peak_flops``: the most operations a second that a device reaches; None: not known."""
        self.work, self.peak_flops = work or Work(), peak_flops
        self.restart()

    def restart(self) -> None:
        """Begin to count."""
        self.begun, self.waited = time.perf_counter(), 0.0
        self.tokens = self.samples = self.labels = self.filled = self.room = 0

    def add(self, tokens: int, samples: int, labels: int, waited: float) -> None:
        """A step's batches: their tokens, samples and supervised tokens on this process, and the seconds until they
        were there."""
        self.tokens, self.samples, self.labels = self.tokens + tokens, self.samples + samples, self.labels + labels
        self.waited += waited

    def fill(self, tokens: int, room: int) -> None:
        """A batch of packed rows: the tokens in them, and those they have room for."""
        self.filled, self.room = self.filled + tokens, self.room + room

    def entry(self, tokens: int, samples: int, labels: int, processes: int) -> dict[str, float]:
        """What goes into the log, from what all ``processes`` counted; then counting begins anew."""
        seconds = max(time.perf_counter() - self.begun, 1e-9)
        found = {
            "tokens_per_second": round(tokens / seconds, 2),
            "samples_per_second": round(samples / seconds, 4),
            "data_wait": round(min(self.waited / seconds, 1.0), 4),
            "peak_memory_gb": round(peak_memory() / 1e9, 3),
        }
        if self.peak_flops:
            done = tokens * self.work.per_token + labels * self.work.per_label
            found["mfu"] = round(done / seconds / (self.peak_flops * processes), 4)
        self.restart()
        return found


def peak_memory() -> int:
    """Bytes: the most that was allocated on the GPU, or that this process has had in memory."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


PEAK_FLOPS = (
    ("H200", 989e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40", 181e12),
    ("A6000", 155e12),
    ("4090", 165e12),
)
"""Part of a GPU's name -> dense bf16 operations per second that its maker states."""


def device_peak() -> float | None:
    """The stated rate of this machine's GPU; None for one that is not known here, and for a CPU."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((rate for part, rate in PEAK_FLOPS if part in name), None)
