"""Which blocks should a question read densely? Ways to choose them, compared on generated needle tasks.

    python benchmarks/relevance.py --model MODEL --frames 128 512 --json benchmarks/results/relevance.json

A video is noise in front of a slowly changing background; for one group of frames a large square of one colour is seen,
and at other times squares of other colours. Two questions are asked: when is the square of this colour seen, and which
colour is seen at this time. Per way of choosing: how often the block with the needle is among those read densely beyond
the first and the last (``hit``), how often the answer is right (``right``), the share of the memory that was read, and
the seconds it took to choose.

Answers mean something only from a model that knows such videos; "tiny", which knows other ones, shows that the script
runs. ``hit`` of ``random`` is the level of chance.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import videoxl
from videoxl import BiLevelDecode, ChunkedPrefill, DenseDecode
from videoxl.inference.bilevel import pooled_level
from videoxl.inference.relevance import group_masses
from videoxl.memory.blocks import blocks_of

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 190, 40),
    "blue": (40, 60, 230),
    "yellow": (235, 220, 40),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}
SIDE, FRAMES_PER_GROUP = 48, 4


@dataclass(frozen=True)
class Task:
    """One video, one question about it, and what is known about the answer."""

    pixels_FHWC: np.ndarray
    question: str
    needle: int
    """Group of frames that holds the answer."""
    is_right: Callable[[str], bool]


def tasks(frames: int, videos: int, seed: int, block_size: int) -> Iterator[Task]:
    """Two questions per video."""
    for number in range(videos):
        source = np.random.default_rng((seed, frames, number))
        groups = frames // FRAMES_PER_GROUP
        pixels = background(source, frames)
        margin = max(block_size, groups // 8)  # never in the first or the last block, which are read in any case
        inner = np.arange(margin, groups - margin)
        shown = source.choice(inner, size=min(4, len(inner)), replace=False)
        colours = source.permutation(list(COLOURS))[: len(shown)]
        for group, colour in zip(shown, colours):
            draw(source, pixels[group * FRAMES_PER_GROUP : (group + 1) * FRAMES_PER_GROUP], COLOURS[colour])
        needle, colour = int(shown[0]), str(colours[0])
        begin = needle * FRAMES_PER_GROUP
        yield Task(pixels, f"At what second is a {colour} square seen?", needle, lambda text, b=begin: near(text, b))
        yield Task(
            pixels, f"What colour is the square at second {begin}?", needle, lambda text, c=colour: c in text.lower()
        )


def near(text: str, second: int) -> bool:
    """The first number in the answer lies in the group that begins at ``second``."""
    found = re.search(r"\d+(\.\d+)?", text)
    return found is not None and second <= float(found[0]) < second + FRAMES_PER_GROUP


def background(source: np.random.Generator, frames: int) -> np.ndarray:
    """Colours that drift, with fine noise: uint8 ``[F, H, W, 3]``."""
    drift = np.cumsum(source.normal(0, 2, (frames, 1, 1, 3)), axis=0) + source.uniform(80, 170, 3)
    grain = source.integers(-25, 26, (frames, SIDE, SIDE, 3))
    return np.clip(drift + grain, 0, 255).astype(np.uint8)


def draw(source: np.random.Generator, pixels_FHWC: np.ndarray, colour: tuple[int, int, int]) -> None:
    """A square over a good part of the picture."""
    size = int(source.integers(SIDE // 3, SIDE // 2))
    top, left = source.integers(0, SIDE - size, 2)
    pixels_FHWC[:, top : top + size, left : left + size] = colour


# ------------------------------------------------------------------------------------------------ ways to choose


def ways(engine: videoxl.VideoXL, settings: dict[str, int], seed: int) -> dict[str, Callable[[Task], Any]]:
    """Name -> the decode strategy for a task; ``None`` where the way cannot be had here."""
    size = settings["block_size"]

    def oracle(task: Task) -> BiLevelDecode:
        return BiLevelDecode(**settings, relevance=[task.needle // size])

    def random(task: Task) -> BiLevelDecode:
        source = np.random.default_rng((seed, task.needle))
        return BiLevelDecode(
            **settings, relevance=lambda memory, q: source.random(len(blocks_of(len(memory.groups), size)))
        )

    def of_masses(score: Callable[[np.ndarray, np.ndarray], np.ndarray], compared: str = "") -> BiLevelDecode:
        """Attention by another recipe: ``score`` of masses per head and block, of the question and of ``compared``."""

        def relevance(memory: Any, question: str) -> np.ndarray:
            level = pooled_level(engine.model, memory, settings["pool"])
            masses = [
                group_masses(engine.model, memory.cache, level, ids, len(ids))
                for ids in (engine.chat_format.suffix(question), engine.chat_format.suffix(compared))
            ]
            firsts = [block.start for block in blocks_of(len(memory.groups), size)]
            return score(*(np.add.reduceat(mass, firsts, axis=1) for mass in masses))

        return BiLevelDecode(**settings, relevance=relevance)

    return {
        "all dense": lambda task: DenseDecode(),
        "oracle": oracle,
        "attention": lambda task: BiLevelDecode(**settings, relevance="attention"),
        "attention, sum of groups": lambda task: of_masses(lambda asked, bare: asked.mean(0)),
        "attention, largest head": lambda task: of_masses(lambda asked, bare: asked.max(0)),
        "attention, difference": lambda task: of_masses(lambda asked, bare: (asked - bare).mean(0)),
        "attention, surprise": lambda task: of_masses(surprise),
        "attention, surprise to a plain question": lambda task: of_masses(surprise, "What is shown in the video?"),
        "random": random,
        "none": lambda task: BiLevelDecode(**settings, relevance=[0]),
    }


def surprise(asked: np.ndarray, bare: np.ndarray) -> np.ndarray:
    """Attention times the log of how much larger its share is than without the question."""
    asked, bare = asked + 1e-9, bare + 1e-9
    shares = asked / asked.sum(1, keepdims=True), bare / bare.sum(1, keepdims=True)
    return (asked * (np.log(shares[0]) - np.log(shares[1]))).mean(0)


def measure(engine: videoxl.VideoXL, frames: int, videos: int, settings: dict[str, int], seed: int) -> dict:
    rows: dict[str, list[dict]] = {}
    for task in tasks(frames, videos, seed, settings["block_size"]):
        memory = engine.encode(task.pixels_FHWC, fps=1, prefill=ChunkedPrefill())
        needle = memory.groups[task.needle]
        pooled_level(engine.model, memory, settings["pool"])  # made once per video, not part of choosing
        for name, way in ways(engine, settings, seed).items():
            begin = time.perf_counter()
            answer = engine.ask(memory, task.question, decode=way(task), max_new_tokens=16)
            rows.setdefault(name, []).append(
                {
                    "hit": any(s.start <= needle.start_s < s.end for s in answer.spans),
                    "right": task.is_right(answer.text),
                    "read": answer.usage.read_tokens / answer.usage.memory_tokens,
                    "select_s": answer.usage.seconds.get("select", 0.0),
                    "question_s": time.perf_counter() - begin,
                }
            )
    return {
        name: {key: statistics.fmean(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="one that knows such videos; tiny, the default, does not")
    parser.add_argument("--frames", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--videos", type=int, default=8, help="per length, two questions each")
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--block-size", type=int, default=2)
    parser.add_argument("--pool", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    engine = videoxl.load(arguments.model)
    settings = {"top_k": arguments.top_k, "block_size": arguments.block_size, "pool": arguments.pool}
    results = {}
    for frames in arguments.frames:
        results[str(frames)] = measure(engine, frames, arguments.videos, settings, arguments.seed)
        print(f"{frames} frames, {2 * arguments.videos} questions")
        for name, row in results[str(frames)].items():
            print(f"  {name:<30} hit {row['hit']:.2f}  right {row['right']:.2f}  read {row['read']:.2f}  "
                  f"select {1e3 * row['select_s']:.1f} ms", flush=True)  # fmt: skip
    document = {
        "benchmark": "relevance",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "model": repr(engine),
        "settings": {**settings, "videos": arguments.videos, "seed": arguments.seed},
        "not compared": {"siglip": "needs a SigLIP model with its text tower; none is embedded"},
        "results": results,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
