"""The embedded models on the device against the CPU: the same tokens in fp32, close numbers in bf16."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.gpu.machine import is_simulated, place
from benchmarks.gpu.reading import upload_check
from tests.simulated_gpu.everything import everything
from torch import nn

import videoxl
from videoxl.inference.engine import VideoXL
from videoxl.model.attention import eager_attention
from videoxl.model.attention_parts import merge, plain_with_sums
from videoxl.model.flash import flash_with_sums

PREFILLS = {"tiny": ("chunked", "full", "chunked:offload=true"), "tiny-v1": ("beacon", "full")}
SHORT = {"tiny": ("chunked",)}
"""On a simulated device, whose own tests have the others."""
TOLERANCE = {"fp32 keys": 1e-3, "flash, bf16": 2e-2}
"""Largest difference; of keys relative to the largest of them."""


def film(count: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8))


def parity() -> dict[str, Any]:
    """Compare whole runs, and the kernels that a GPU alone has."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, Any] = {"a pinned upload arrives": upload_check()}
    with tempfile.TemporaryDirectory() as folder:
        for name, prefills in (SHORT if is_simulated() else PREFILLS).items():
            here = videoxl.load(name, device="cpu", dtype="float32")
            there = videoxl.load(name, device="cpu", dtype="float32")
            place(there.model)
            for prefill in prefills:
                found[f"{name}, {prefill}"] = compare(here, there, prefill, Path(folder))
    found["flash, bf16"] = kernels()
    equal = all(one["same_texts"] and one["keys"] <= TOLERANCE["fp32 keys"] for one in found.values() if _is_run(one))
    close = found["flash, bf16"]["whole"] <= TOLERANCE["flash, bf16"] >= found["flash, bf16"]["merged"]
    return {**found, "tolerances": TOLERANCE, "passed": bool(equal and close and found["a pinned upload arrives"])}


def _is_run(found: Any) -> bool:
    return isinstance(found, dict) and "same_texts" in found


def compare(here: VideoXL, there: VideoXL, prefill: str, folder: Path) -> dict[str, Any]:
    """Everything that can be done with a memory, and the keys of its last layer but one."""
    texts, keys = [], []
    for engine in (here, there):
        memory = engine.encode(frames=film(28, 0), fps=1, prefill=prefill)
        keys.append(memory.cache.layers[-2].keys.float().cpu())
        texts.append(everything(engine, memory, film(12, 1), folder))
    differ = [name for name in texts[0] if texts[0][name] != texts[1][name]]
    error = float((keys[0] - keys[1]).abs().max() / keys[0].abs().max())
    return {"same_texts": not differ, "differ": differ, "keys": round(error, 8)}


class _Layer(nn.Module):
    kernel, dropout, scaling = "eager", 0.0, 128**-0.5


@torch.inference_mode()
def kernels() -> dict[str, float]:
    """The flash kernel at true head width against attention written out in fp32: whole, and merged of two parts."""
    source = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((1, heads, 300, 128), generator=source) for heads in (28, 4, 4))
    want = eager_attention(_Layer(), q[:, :, -30:], k, v, torch.ones(30, 300, dtype=torch.bool).tril_(270))
    q, k, v = (copy.copy(t).to("cuda", torch.bfloat16) for t in (q, k, v))
    last = q[:, :, -30:]
    whole = flash_with_sums(last, k, v, scale=_Layer.scaling, causal=True)[0]
    own = torch.ones(30, 30, dtype=torch.bool, device=q.device).tril_()
    parts = [
        flash_with_sums(last, k[:, :, :270], v[:, :, :270], scale=_Layer.scaling, causal=False),
        plain_with_sums(last, k[:, :, 270:], v[:, :, 270:], own, scale=_Layer.scaling),
    ]
    errors = {"whole": whole, "merged": merge(parts)}
    return {name: round(float((out.float().cpu() - want).abs().max()), 6) for name, out in errors.items()}
