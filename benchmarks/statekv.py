"""How the attention of prefill with a carried state grows with the length of the video, beside full prefill.

    python benchmarks/statekv.py --json benchmarks/results/statekv-cpu2.json

The language model of a small random Qwen3-VL (2 layers, 4 heads of 32 over 2 of keys) is fed with random visual
tokens: 4 a pair of frames beside its timestamp of 17. What is timed is processor time within the attention of every
layer, on one thread, the least of five runs (one of full prefill). The exponent is the slope of a line through the
logarithms of time and frames.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tests.model.families.qwen3_vl_folder import Shape, write_folder

import videoxl
from videoxl import FullPrefill, StateKVPrefill
from videoxl.config import PrefillStrategy
from videoxl.inference.prefill import statekv
from videoxl.inference.prefill.choose import make_prefiller
from videoxl.inference.prompt import span_for
from videoxl.model import attention

FRAMES = (512, 1024, 2048, 4096)
STRATEGIES = (StateKVPrefill(budget=256, step=4), FullPrefill())
GRID = (2, 2)
GROUPS_AT_ONCE = 32


class Spent:
    """Processor time within a method."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name, self.seconds = owner, name, 0.0
        self.plain: Callable[..., Any] = getattr(owner, name)

    def __enter__(self) -> Spent:
        def timed(*given: Any, **named: Any) -> Any:
            begin = time.process_time()
            try:
                return self.plain(*given, **named)
            finally:
                self.seconds += time.process_time() - begin

        setattr(self.owner, self.name, timed)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.plain)


@torch.inference_mode()
def attention_seconds(engine: videoxl.VideoXL, strategy: PrefillStrategy, frames: int) -> float:
    """Time in attention while a video of random visual tokens is read."""
    side = engine.config.token_side
    config = engine.config.with_picture(GRID[0] * side, GRID[1] * side)
    prefix, tokenize = engine.chat_format.prefix(), engine.chat_format.tokenize
    prefiller = make_prefiller(
        strategy, engine.model, prefix, visual_tokens=None, tokens=0, chat_format=engine.chat_format, config=config
    )
    times = [float(number) for number in range(frames)]
    random = torch.Generator().manual_seed(0)
    width = config.text.hidden_size * 2
    plan = statekv.StepAttention if isinstance(strategy, StateKVPrefill) else attention.CausalPlan
    with Spent(plan, "attend") as spent:
        for first in range(0, frames, 2 * GROUPS_AT_ONCE):
            span = span_for(config, times[first : first + 2 * GROUPS_AT_ONCE], tokenize, continued=first > 0)
            prefiller.add(span, torch.randn((span.visual_tokens, width), generator=random))
        prefiller.finish()
    return spent.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        shape = Shape(layers=2, heads=4, kv_heads=2, head_width=32, hidden=64, deepstack=(0,))
        write_folder(Path(scratch) / "model", shape)
        engine = videoxl.load(f"{scratch}/model", device="cpu", dtype="float32")
    rows = []
    for strategy in STRATEGIES:
        attention_seconds(engine, strategy, 64)
        repeats = 5 if isinstance(strategy, StateKVPrefill) else 1
        seconds = {
            frames: min(attention_seconds(engine, strategy, frames) for _ in range(repeats)) for frames in given.frames
        }
        slope = float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])
        rows.append({"prefill": str(strategy), "attention_seconds": seconds, "exponent": round(slope, 3)})
        print(f"{strategy!s:<28} {seconds}  exponent {slope:.2f}", flush=True)
    if given.json:
        about = {"cpu": platform.processor(), "torch": torch.__version__, "transformers": transformers.__version__}
        given.json.write_text(json.dumps({"about": about, "grid": GRID, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
