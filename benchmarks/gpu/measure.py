"""Seconds and bytes of a piece of work on the device."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.gpu.machine import is_simulated

Work = Callable[[], Any]


def measured(work: Work, *, rounds: int = 1, warm: Work | None = None) -> dict[str, Any]:
    """The median of ``rounds``: ``seconds`` between two events on the device, what the host took, the peak of memory.

    ``warm``: run before and not counted; without one, nothing is.
    """
    if warm is not None:
        warm()
    device_seconds, host_seconds = [], []
    clear()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        clock = time.perf_counter()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        host_seconds.append(time.perf_counter() - clock)
        device_seconds.append(begin.elapsed_time(end) / 1e3)
    peak = torch.cuda.max_memory_allocated()
    return {
        "seconds": round(statistics.median(device_seconds), 6),
        "spread": round(max(device_seconds) - min(device_seconds), 6),
        "host_seconds": round(statistics.median(host_seconds), 6),
        "peak_gb": round(peak / 1e9, 3),
        "further_gb": round((peak - held) / 1e9, 3),
    }


def beside(ours: dict[str, Any], baseline: dict[str, Any], target: float | None = None, **facts: Any) -> dict[str, Any]:
    """Both, and how many times as fast ours is; ``target``: the ratio that counts as reached, on a GPU."""
    ratio = round(baseline["seconds"] / max(ours["seconds"], 1e-9), 2)
    found = {"ours": ours, "baseline": baseline, "times_as_fast": ratio, **facts}
    if target is not None and not is_simulated():
        found |= {"target_times_as_fast": target, "reached": ratio >= target}
    return found


def clear() -> None:
    """Let go of what nobody holds."""
    gc.collect()
    torch.cuda.empty_cache()
