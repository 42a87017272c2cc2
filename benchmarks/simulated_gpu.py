"""Counts of the released models at true size on a simulated H200: launches, waits, bytes, FLOPs, peaks.

    python -m benchmarks.simulated_gpu                             # all cases, into benchmarks/results
    python -m benchmarks.simulated_gpu --case chunked-2048 --whole  # every layer is run, not only some
    python -m benchmarks.simulated_gpu --table docs/notes/simulated-gpu.md

No number here is a time that was measured: seconds follow from the rates in ``tests/simulated_gpu/card.py``. Layers of
a language model all do the same, so counts grow by the same from layer to layer: models of 2 and 4 layers are run, and
28 follow. ``check``, a case of its own, runs all 28 over 96 frames and compares.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.simulated_gpu_table import write_table
from tests.simulated_gpu.counts import Counts
from tests.simulated_gpu.cuda import simulated
from tests.simulated_gpu.device import SimulatedDevices
from tests.simulated_gpu.true_size import true_size_engine

from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.inference.prompt import span_for
from videoxl.memory.kv_cache import SPARE_TOKENS, KVCache, PreallocatedLayer
from videoxl.memory.types import MemoryState, ReadStats
from videoxl.memory.video_memory import VideoMemory

RESULTS = Path(__file__).parent / "results" / "simulated_gpu.json"
CASES: dict[str, tuple[str, str, int]] = {
    "chunked-96": ("video-xl-2", "chunked", 96),
    "chunked-2048": ("video-xl-2", "chunked", 2048),
    "full-2048": ("video-xl-2", "full", 2048),
    "beacon-2048": ("video-xl", "beacon:ratio=8", 2048),
    "offload-2048": ("video-xl-2", "chunked:offload=true", 2048),
    "chunked-10000": ("video-xl-2", "chunked", 10_000),
}
QUESTIONS: dict[str, tuple[str, int]] = {
    "ask-dense-2048": ("dense", 2048),
    "ask-bilevel-2048": ("bilevel", 2048),
    "ask-dense-10000": ("dense", 10_000),
    "ask-bilevel-10000": ("bilevel", 10_000),
}
QUESTION = " ".join(["word"] * 23)
"""With the template around it, 30 tokens."""
ANSWER_TOKENS, TOGETHER = 17, 16
ALL_LAYERS, FEW = 28, (2, 4)
Summary = dict[str, Any]


def summary(counts: Counts, devices: SimulatedDevices) -> Summary:
    """What is compared between versions."""
    attention: dict[str, float] = {}
    for (kind, _), found in counts.attention.items():
        attention[kind] = attention.get(kind, 0.0) + found.flops / 1e12
    return {
        "launches": counts.kernels,
        "synchronisations": counts.waits,
        "copies": sum(counts.copies.values()),
        "tflop": sum(counts.flops.values()) / 1e12,
        "attention_tflop": dict(sorted(attention.items())),
        "moved_gb": {name: count / 1e9 for name, count in counts.moved.items()},
        "peak_gb": devices.peak[0] / 1e9,
        "seconds_estimated": sum(counts.seconds.values()),
    }


def of_all_layers(few: Summary, more: Summary) -> Summary:
    """Counts of 28 layers from those of 2 and 4: the same is added by every layer."""
    found: Summary = {}
    for name in {**few, **more}:
        a, b = few.get(name, 0), more.get(name, 0)
        if isinstance(a, dict) or isinstance(b, dict):
            found[name] = of_all_layers(a or {}, b or {})
        else:
            found[name] = a + (b - a) * (ALL_LAYERS - FEW[0]) / (FEW[1] - FEW[0])
    return found


def rounded(found: Summary) -> Summary:
    """As it is written: counts whole, everything else with three digits behind the point."""
    whole = ("launches", "synchronisations", "copies", "memory_tokens")
    return {
        name: rounded(value) if isinstance(value, dict) else round(value) if name in whole else round(value, 3)
        for name, value in found.items()
    }


def read(family: str, prefill: str, frames: int, layers: int) -> Summary:
    """Encode black frames of the model's size, after a few others: what is made once is not counted."""
    with simulated() as devices:
        engine = true_size_engine(family, devices, layers=layers)
        side = engine.config.vision_config.image_size
        picture = np.zeros((side, side, 3), np.uint8)
        engine.encode(frames=[picture] * 4, fps=1, prefill=prefill)
        with devices.counting() as counts:
            engine.encode(frames=[picture] * frames, fps=1, max_frames=frames, prefill=prefill)
        return summary(counts, devices)


def filled_memory(engine: VideoXL, frames: int) -> VideoMemory:
    """A memory as reading ``frames`` frames leaves it, without reading them: nothing in it has a value anyway."""
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


def ask(decode: str, frames: int, layers: int) -> Summary:
    """The first question about a memory, another one, with evidence; a token of an answer, and of 16 at once."""
    with simulated() as devices:
        engine = true_size_engine("video-xl-2", devices, layers=layers)
        memory = filled_memory(engine, frames)
        text = engine.model.model.language_model
        read_once = [*text.layers.parameters(), *text.norm.parameters(), *engine.model.lm_head.parameters()]
        weights = sum(parameter.numel() * parameter.element_size() for parameter in read_once)

        def counted(tokens: int, questions: int = 1, *, evidence: bool = False) -> Summary:
            with devices.counting() as counts:
                asked = [QUESTION] * questions
                engine.ask(memory, asked, decode=decode, max_new_tokens=tokens, evidence=evidence)
            return summary(counts, devices)

        first, second = counted(1), counted(1)
        found = {
            "memory_tokens": len(memory.token_ids),
            "least_gb": (weights + memory.nbytes) / 1e9,
            "first question": first,
            "next question": second,
            "next question with evidence": counted(1, evidence=True),
        }
        counted(ANSWER_TOKENS)
        found["a token"] = _per_token(second, counted(ANSWER_TOKENS))
        if decode == "dense":
            counted(ANSWER_TOKENS, TOGETHER)
            found[f"a token of {TOGETHER}"] = _per_token(counted(1, TOGETHER), counted(ANSWER_TOKENS, TOGETHER))
        return found


def _per_token(one: Summary, many: Summary) -> Summary:
    """What each token behind the first costs. The peak is that of the answer."""
    found: Summary = {}
    for name, value in many.items():
        if isinstance(value, dict):
            found[name] = _per_token(one.get(name, {}), value)
        else:
            found[name] = value if name == "peak_gb" else (value - one.get(name, 0)) / (ANSWER_TOKENS - 1)
    return found


def case(name: str, *, whole: bool) -> Summary:
    """All counts of a case."""
    run: Callable[[int], Summary] = partial(read, *CASES[name]) if name in CASES else partial(ask, *QUESTIONS[name])
    begin = time.perf_counter()
    found = run(ALL_LAYERS) if whole else of_all_layers(run(FEW[0]), run(FEW[1]))
    return {**rounded(found), "layers_run": [ALL_LAYERS] if whole else list(FEW), "took_seconds": _since(begin)}


def check() -> Summary:
    """All layers over 96 frames against what 2 and 4 of them say."""
    whole, few = (case("chunked-96", whole=way) for way in (True, False))
    names = ("launches", "synchronisations", "copies", "tflop", "peak_gb")
    return {name: {"28 layers": whole[name], "from 2 and 4": few[name]} for name in names}


def _since(begin: float) -> float:
    return round(time.perf_counter() - begin, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=[*CASES, *QUESTIONS, "check"], help="default: all")
    parser.add_argument("--whole", action="store_true", help="run all 28 layers")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, help="only write the tables of this page, from the results")
    arguments = parser.parse_args()
    if arguments.table:
        write_table(arguments.output, arguments.table)
        return
    found: Summary = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.case or [*CASES, *QUESTIONS, "check"]:
        found[name] = check() if name == "check" else case(name, whole=arguments.whole)
        print(name, json.dumps(found[name]), flush=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
