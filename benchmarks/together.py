"""Tokens a second of 16 questions about one memory, answered together and one after the other.

    python -m benchmarks.together --json benchmarks/results/together-cpu2.json

On ``tiny`` and on a random model of 28 layers of width 64, on one thread, by turns; each figure is the least processor
time of its rounds. Both ways must give the same tokens.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.decode_loop import thin_config

import videoxl
from videoxl.config import Generation
from videoxl.inference.decode.loop import decode_tokens
from videoxl.inference.decode.together import Prompt, decode_together
from videoxl.memory.kv_cache import KVCache
from videoxl.model.videoxl import VideoXLForConditionalGeneration

QUESTIONS, NEW, TAIL = 16, 32, 20


def filled(model: VideoXLForConditionalGeneration, tokens: int) -> tuple[list[int], KVCache]:
    """A memory of so many tokens of text."""
    ids = [10 + number % 90 for number in range(tokens)]
    cache = KVCache(model.model.num_text_layers, reserve=tokens + 2048)
    with torch.inference_mode():
        model.next_logits(torch.tensor([ids]), cache)
    return ids, cache


def one_by_one(model: VideoXLForConditionalGeneration, prompts: list[Prompt]) -> list[list[int]]:
    return [[t.id for t in decode_tokens(model, p.ids, p.cache.fork(), p.settings)] for p in prompts]


def together(model: VideoXLForConditionalGeneration, prompts: list[Prompt]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    for number, token in decode_together(model, prompts):
        found[number].append(token)
    return found


def timed(work: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    begin = time.process_time()
    found = work()
    return time.process_time() - begin, found


def measure(model: VideoXLForConditionalGeneration, memory_tokens: int, rounds: int) -> dict[str, Any]:
    ids, cache = filled(model, memory_tokens)
    settings = Generation(max_new_tokens=NEW)
    prompts = [Prompt([*ids, *range(10 + n, 10 + n + TAIL)], cache, settings) for n in range(QUESTIONS)]
    best = {"one by one": float("inf"), "together": float("inf")}
    tokens = {}
    for _ in range(rounds):
        for name, way in (("one by one", one_by_one), ("together", together)):
            seconds, tokens[name] = timed(lambda way=way: way(model, prompts))  # type: ignore[misc]
            best[name] = min(best[name], seconds)
    assert tokens["one by one"] == tokens["together"]
    rates = {name: round(QUESTIONS * NEW / seconds, 1) for name, seconds in best.items()}
    return {
        "memory_tokens": memory_tokens,
        "tokens_per_second": rates,
        "ratio": round(best["one by one"] / best["together"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    thin = VideoXLForConditionalGeneration(thin_config()).eval()
    thin.model.language_model.fuse_projections()
    found: dict[str, Any] = {"date": f"{datetime.date.today()}", "python": platform.python_version()}
    found |= {"torch": torch.__version__, "threads": 1, "questions": QUESTIONS, "new_tokens": NEW}
    for name, model in (("tiny", videoxl.load("tiny", device="cpu").model), ("28 layers of width 64", thin)):
        found[name] = [measure(model, tokens, arguments.rounds) for tokens in (300, 2500)]
        print(name, found[name], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
