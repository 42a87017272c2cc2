"""Counts of the released models at true size on a simulated H200: launches, waits, bytes, FLOPs, peaks.

    python -m benchmarks.simulated_gpu --case chunked-2048 --case ask-dense-2048 --output counts.json

No number here is a time that was measured: seconds follow from the rates in ``tests/simulated_gpu/card.py``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.simulated_gpu.counts import Counts
from tests.simulated_gpu.cuda import simulated
from tests.simulated_gpu.device import SimulatedDevices
from tests.simulated_gpu.true_size import true_size_engine

from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.memory.kv_cache import SPARE_TOKENS, KVCache, PreallocatedLayer
from videoxl.memory.types import MemoryState, ReadStats
from videoxl.memory.video_memory import VideoMemory

CASES: dict[str, tuple[str, str, int]] = {
    "chunked-96": ("video-xl-2", "chunked", 96),
    "chunked-2048": ("video-xl-2", "chunked", 2048),
    "chunked-10000": ("video-xl-2", "chunked", 10_000),
    "full-2048": ("video-xl-2", "full", 2048),
    "offload-2048": ("video-xl-2", "chunked:offload=true", 2048),
    "beacon-2048": ("video-xl", "beacon:ratio=8", 2048),
}
QUESTIONS: dict[str, tuple[str, int]] = {
    "ask-dense-2048": ("dense", 2048),
    "ask-bilevel-2048": ("bilevel", 2048),
    "ask-dense-10000": ("dense", 10_000),
    "ask-bilevel-10000": ("bilevel", 10_000),
}
QUESTION = " ".join(["word"] * 23)
"""With the template around it, 30 tokens."""
ANSWER_TOKENS = 16


def summary(counts: Counts, devices: SimulatedDevices) -> dict[str, Any]:
    """What is compared between versions."""
    attention: dict[str, float] = {}
    for (kind, _), found in counts.attention.items():
        attention[kind] = attention.get(kind, 0.0) + found.flops / 1e12
    return {
        "launches": counts.kernels,
        "synchronisations": counts.waits,
        "copies": sum(counts.copies.values()),
        "tflop": round(sum(counts.flops.values()) / 1e12, 1),
        "attention_tflop": {kind: round(value, 1) for kind, value in sorted(attention.items())},
        "moved_gb": {name: round(count / 1e9, 2) for name, count in counts.moved.items()},
        "peak_gb": round(devices.peak[0] / 1e9, 3),
        "seconds_estimated": round(sum(counts.seconds.values()), 3),
    }


def read(family: str, prefill: str, frames: int) -> dict[str, Any]:
    """Encode black frames of the model's size."""
    with simulated() as devices:
        engine = true_size_engine(family, devices)
        side = engine.config.vision_config.image_size
        picture = np.zeros((side, side, 3), np.uint8)
        begin = time.perf_counter()
        with devices.counting() as counts:
            engine.encode(frames=[picture] * frames, fps=1, max_frames=frames, prefill=prefill)
        return {**summary(counts, devices), "host_seconds_simulating": round(time.perf_counter() - begin, 1)}


def filled_memory(engine: VideoXL, frames: int) -> VideoMemory:
    """A memory as reading ``frames`` frames leaves it, without reading them: nothing in it has a value anyway."""
    from videoxl.inference.prompt import span_for

    times = tuple(float(second) for second in range(frames))
    prefix = engine.chat_format.prefix()
    span = span_for(engine.config, times, engine.chat_format.tokenize)
    ids, text = (*prefix, *span.ids), engine.config.text
    shape = (1, text.num_key_value_heads, len(ids) + SPARE_TOKENS, engine.config.head_width)
    layers = []
    for _ in range(text.num_hidden_layers):
        keys, values = (torch.empty(shape, dtype=torch.bfloat16, device="cuda:0") for _ in range(2))
        layers.append(PreallocatedLayer.holding(keys, values, len(ids)))
    state = MemoryState(
        cache=KVCache(layers),
        token_ids=ids,
        prefix_length=len(prefix),
        groups=span.groups,
        timestamps=times,
        prefill=str(choose_prefill("chunked", engine.config)),
        model_fingerprint=engine.fingerprint,
        usage=ReadStats(
            frames=frames,
            video_seconds=float(frames),
            visual_tokens=span.visual_tokens,
            memory_tokens=len(ids),
            memory_bytes=0,
        ),
    )
    return VideoMemory(state, engine)


def ask(decode: str, frames: int) -> dict[str, Any]:
    """The first question about a memory, then another one: choosing, prompt, one token; and every token after it."""
    with simulated() as devices:
        engine = true_size_engine("video-xl-2", devices)
        memory = filled_memory(engine, frames)
        found: dict[str, Any] = {"memory_tokens": len(memory.token_ids)}
        for name, tokens in (("first question", 1), ("next question", 1), (f"{ANSWER_TOKENS} tokens", ANSWER_TOKENS)):
            with devices.counting() as counts:
                engine.ask(memory, QUESTION, decode=decode, max_new_tokens=tokens)
            found[name] = summary(counts, devices)
        one, many = found["next question"], found[f"{ANSWER_TOKENS} tokens"]
        found["launches_per_token"] = (many["launches"] - one["launches"]) / (ANSWER_TOKENS - 1)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=[*CASES, *QUESTIONS], help="default: all")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/simulated_gpu.json"))
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for case in arguments.case or [*CASES, *QUESTIONS]:
        found[case] = read(*CASES[case]) if case in CASES else ask(*QUESTIONS[case])
        print(case, json.dumps(found[case]), flush=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
