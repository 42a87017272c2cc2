"""How exact memories are whose keys and values are held in eight bits (``kv_dtype``), and how fast they are asked.

    python -m benchmarks.kv_dtype --json benchmarks/results/kv_dtype-cpu2.json

Errors are of a question's tokens in the embedded models, as they are and with key biases as large as Qwen2's: root mean
squares relative to the exact memory's. Answers are about films of the generated world: how many are those from the
exact memory, and right. ``per token`` rounds keys with their biases in them, which is what ``kv_dtype`` does not do.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))  # memory_file imports its neighbours

import memory_file as files
import videoxl
from videoxl.config import KV_DTYPES, ChunkedPrefill
from videoxl.inference.engine import VideoXL
from videoxl.memory.quantised import Quantisation
from videoxl.memory.video_memory import VideoMemory
from videoxl.world import Film, Renderer

PARTS = ("errors", "answers", "speed")


def read(engine: VideoXL, film: Film, kv_dtype: str | None) -> VideoMemory:
    prefill = ChunkedPrefill() if engine.config.time_format else None
    frames = Renderer(film).frames(engine.config.image_size)
    return engine.encode(frames, timestamps=film.timestamps, prefill=prefill, kv_dtype=kv_dtype)


def errors(engine: VideoXL, groups: int) -> dict[str, dict[str, float]]:
    film, (question,) = files.film_and_questions(engine, groups, 0, 1)
    exact = read(engine, film, None)
    attention, logits = files.outputs(engine, exact, question.text)
    found = {}
    for name in KV_DTYPES:
        held = read(engine, film, name)
        ours, theirs = files.outputs(engine, held, question.text)
        pairs = list(zip(held.cache.layers, exact.cache.layers))
        found[name] = {
            "bytes": held.nbytes / exact.nbytes,
            "keys": max(files.relative(a.keys, b.keys) for a, b in pairs),
            "keys_per_token": max(with_biases_in_them(name, b.keys) for _, b in pairs),
            "values": max(files.relative(a.values, b.values) for a, b in pairs),
            "attention_outputs": files.relative(ours, attention),
            "logits": files.relative(theirs, logits),
        }
    return found


def with_biases_in_them(name: Any, keys: torch.Tensor) -> float:
    packed, scales = Quantisation(name).pack(keys)
    return files.relative(packed.float() * scales, keys)


def answers(engine: VideoXL, groups: int, films: int, questions: int) -> dict[str, Any]:
    ways: dict[str, Any] = {"dense": files.ALL_DENSE}
    if engine.config.time_format:
        ways["two levels"] = files.TWO_LEVELS
    kinds = (None, *KV_DTYPES)
    told: dict[tuple[str, str | None], list[str]] = {(way, kind): [] for way in ways for kind in kinds}
    truths: list[str] = []
    for number in range(films):
        film, asked = files.film_and_questions(engine, groups, number, questions)
        truths += [question.answer for question in asked]
        for kind in kinds:
            memory = read(engine, film, kind)
            for way, decode in ways.items():
                told[way, kind] += [
                    engine.ask(memory, question.text, decode=decode, max_new_tokens=96).text for question in asked
                ]
    found: dict[str, Any] = {"questions": len(truths)}
    for (way, kind), texts in told.items():
        same = sum(a == b for a, b in zip(texts, told[way, None])) / len(texts)
        right = sum(text.strip() == truth for text, truth in zip(texts, truths)) / len(texts)
        found.setdefault(way, {})[kind or "exact"] = {"unchanged": round(same, 3), "right": round(right, 3)}
    return found


def seconds_per_answer(engine: VideoXL, frames: int, rounds: int) -> dict[str, float]:
    """Processor seconds of a dense answer of 16 tokens about a long memory, the least of some rounds, per kind."""
    side = engine.config.image_size
    pixels = np.zeros((frames, side, side, 3), np.uint8)
    memories = {kind or "exact": engine.encode(frames=pixels, fps=1, kv_dtype=kind) for kind in (None, *KV_DTYPES)}
    taken: dict[str, list[float]] = {name: [] for name in memories}
    for _ in range(rounds):
        for name, memory in memories.items():
            begin = time.process_time()
            engine.ask(memory, "What?", max_new_tokens=16)
            taken[name].append(time.process_time() - begin)
    return {name: round(min(values), 4) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="the others stay as they are")
    parser.add_argument("--groups", type=int, default=64)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--questions", type=int, default=8, help="per film")
    parser.add_argument("--frames", type=int, default=512, help="of the memory whose answers are timed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    engines = {name: videoxl.load(name, device="cpu") for name in ("tiny", "tiny-v1")}
    found: dict[str, Any] = {}
    if arguments.json and arguments.json.exists():
        found = json.loads(arguments.json.read_text(encoding="utf-8"))["results"]
    if "answers" in arguments.parts:
        found["answers"] = {
            name: answers(engine, arguments.groups, arguments.films, arguments.questions)
            for name, engine in engines.items()
        }
    if "speed" in arguments.parts:
        found["seconds_per_answer"] = seconds_per_answer(engines["tiny"], arguments.frames, 3)
    if "errors" in arguments.parts:
        found["errors"] = {name: errors(engine, arguments.groups) for name, engine in engines.items()}
        found["errors"]["biased"] = errors(files.with_key_biases(engines["tiny"]), arguments.groups)
    print(json.dumps(found, indent=1))
    document = {
        "benchmark": "kv_dtype",
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()}-core {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "groups": arguments.groups,
        "results": found,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
