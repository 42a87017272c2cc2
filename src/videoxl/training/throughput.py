"""What the log says of a run's speed: tokens a second, the share of a device's rate, the wait for data, memory."""

from __future__ import annotations

import resource
import sys
import time

import torch
from torch import nn


class Throughput:
    """Counts between two entries of the log."""

    def __init__(self, flops_per_token: float = 0.0, peak_flops: float | None = None) -> None:
        """``flops_per_token``: of forward and backward. ``peak_flops``: the most a device reaches; None: not known."""
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.restart()

    def restart(self) -> None:
        """Begin to count."""
        self.begun, self.waited = time.perf_counter(), 0.0
        self.tokens = self.samples = 0

    def add(self, tokens: int, samples: int, waited: float) -> None:
        """A step's batches: their tokens and samples on this process, and the seconds until they were there."""
        self.tokens, self.samples, self.waited = self.tokens + tokens, self.samples + samples, self.waited + waited

    def entry(self, tokens: int, samples: int, processes: int) -> dict[str, float]:
        """What goes into the log, from the tokens and samples of all ``processes``; then counting begins anew."""
        seconds = max(time.perf_counter() - self.begun, 1e-9)
        found = {
            "tokens_per_second": round(tokens / seconds, 2),
            "samples_per_second": round(samples / seconds, 4),
            "data_wait": round(min(self.waited / seconds, 1.0), 4),
            "peak_memory_gb": round(peak_memory() / 1e9, 3),
        }
        if self.peak_flops:
            found["mfu"] = round(tokens / seconds * self.flops_per_token / (self.peak_flops * processes), 4)
        self.restart()
        return found


def flops_per_token(model: nn.Module) -> float:
    """Operations of forward and backward a token of the language model, after Kaplan et al.: 6 for each of its weights
    that is trained or that gradients pass through. What the vision side computes is not counted."""
    matrices = [p for n, p in model.named_parameters() if "language_model" in n or "lm_head" in n]
    return 6.0 * sum(p.numel() for p in matrices if p.ndim == 2)


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
