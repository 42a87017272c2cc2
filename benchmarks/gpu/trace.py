"""A trace of one tile and one short answer, and the kernels that took the most time."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu import models
from benchmarks.gpu.machine import is_simulated
from benchmarks.gpu.reading import pictures
from benchmarks.gpu.sizes import Sizes
from torch.profiler import ProfilerActivity, profile

LAYERS = 4
"""Of the language model: each does the same, and a trace of all is large."""
MOST = 25


def trace(sizes: Sizes, output: Path) -> dict[str, Any]:
    """Write ``output`` (for chrome://tracing or Perfetto, gzipped)."""
    engine = models.engine("video-xl-2", sizes, layers=min(LAYERS, sizes.layers or LAYERS))
    film = pictures(engine, 96)

    def run() -> None:
        memory = engine.encode(frames=film, fps=1, prefill="chunked")
        engine.ask(memory, "What is shown?", max_new_tokens=8, evidence=False)

    run()
    kinds = [ProfilerActivity.CPU] if is_simulated() else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=kinds) as profiled:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(plain))
        output.write_bytes(gzip.compress(plain.read_bytes()))
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_device_time_total)
    top = [{"name": row.key[:120], "calls": row.count, "us": round(row.self_device_time_total)} for row in rows[:MOST]]
    return {"file": output.name, "megabytes": round(output.stat().st_size / 1e6, 2), "top": top}
