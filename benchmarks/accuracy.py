"""How often the embedded models answer exactly right, by kind of question, length of film and way of reading.

    python benchmarks/accuracy.py --json benchmarks/results/accuracy-cpu2.json
    python benchmarks/accuracy.py --models tiny-qwen3 --films 10 --json benchmarks/results/accuracy-qwen3-cpu2.json
    python benchmarks/accuracy.py --tables benchmarks/results/accuracy-cpu2.json   # for docs/notes/tiny-accuracy.md

Films of the generated world on seeds that training never saw, rendered, encoded and asked through the public calls.
An answer is right when the whole text is the true one. Every way of reading meets the same films and questions.
``content`` is what was shown (colour, shape, number).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from recipes.tiny.accuracy import Asked, Mode, ask_about_films

import videoxl
from videoxl.config import (
    TINY,
    TINY_QWEN3,
    TINY_V1,
    BeaconPrefill,
    BiLevelDecode,
    ChunkedPrefill,
    FullPrefill,
    StateKVPrefill,
)
from videoxl.world import KINDS
from videoxl.world.questions import CONTENT, TIMED

TINY_MODES = {
    "full": Mode(FullPrefill()),
    "chunked": Mode(ChunkedPrefill()),
    "bilevel": Mode(ChunkedPrefill(), BiLevelDecode()),
}
V1_MODES = {f"beacon {ratio}": Mode(BeaconPrefill(ratio=ratio)) for ratio in (2, 4, 8, 16)}
QWEN3_MODES = {
    "full": Mode(FullPrefill()),
    "statekv": Mode(StateKVPrefill(budget=1024)),
    "bilevel": Mode(FullPrefill(), BiLevelDecode()),
}
MODES = {TINY: TINY_MODES, TINY_V1: V1_MODES, TINY_QWEN3: QWEN3_MODES}
LENGTHS = (8, 16, 32, 64, 128, 512)
LONG = 64
"""Groups from which on half as many films are asked about."""


def measure(
    name: str, lengths: Sequence[int], films: int, questions: int, seed: int, asked_kinds: Sequence[str]
) -> list[Asked]:
    engine = videoxl.load(name, device="cpu")
    compressed = bool(engine.config.beacon_param)  # such a model is told no times
    kinds = [kind for kind in asked_kinds if not (compressed and kind in TIMED)]
    modes = MODES[name]
    found: list[Asked] = []
    for groups in lengths:
        begin = time.perf_counter()
        count = films if groups < LONG else max(2, films // 2)
        found += ask_about_films(engine, modes, groups=groups, films=count, questions=questions, kinds=kinds, seed=seed)
        print_row(name, groups, [a for a in found if a.groups == groups], time.perf_counter() - begin)
    return found


def print_row(name: str, groups: int, asked: Sequence[Asked], seconds: float) -> None:
    for mode in dict.fromkeys(a.mode for a in asked):
        of = [a for a in asked if a.mode == mode]
        parts = " ".join(f"{kind}:{value:.2f}" for kind, (value, _) in by_kind(of).items())
        print(f"{name} {groups:>4} groups {mode:<10} {parts}  ({len(of)} answers, {seconds:.0f} s for all)", flush=True)


def by_kind(asked: Sequence[Asked]) -> dict[str, tuple[float, int]]:
    """Share right and number asked: all, content, and every kind."""
    sets = {"all": [*KINDS], "content": [*CONTENT], **{kind: [kind] for kind in KINDS}}
    found = {}
    for name, kinds in sets.items():
        right = [a.right for a in asked if a.kind in kinds]
        if right:
            found[name] = (sum(right) / len(right), len(right))
    return found


SHOWN = ("all", "content", "when")
"""Of every way of reading; the kinds one by one of :data:`IN_DETAIL`."""
IN_DETAIL = {TINY: "full", TINY_V1: "beacon 8", TINY_QWEN3: "full"}


def tables(results: dict[str, Any]) -> str:
    """Markdown."""
    lines: list[str] = []
    for name, modes in results.items():
        lengths = list(next(iter(modes.values())))
        head = [*(f"{groups} groups |" for groups in lengths)]
        rule = "|---" * (len(lengths) + 1) + "|"
        lines += [
            f"`{name}`, share of whole answers that are right (number asked):",
            "",
            " ".join(["| read |", *head]),
            rule,
        ]
        for kind in SHOWN:
            for mode, by_length in modes.items():
                cells = [by_length[groups].get(kind) for groups in lengths]
                if any(cells):
                    shown = [f"{cell['right']:.2f} ({cell['asked']}) |" if cell else "|" for cell in cells]
                    lines.append(" ".join([f"| {kind}, {mode} |", *shown]))
        mode = IN_DETAIL[name]
        lines += ["", f"By kind, read `{mode}`:", "", " ".join(["| kind |", *head]), rule]
        for kind in KINDS:
            cells = [modes[mode][groups].get(kind) for groups in lengths]
            if any(cells):
                lines.append(" ".join([f"| {kind} |", *(f"{c['right']:.2f} |" if c else "|" for c in cells)]))
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[TINY, TINY_V1], choices=list(MODES))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), help="in groups of four frames")
    parser.add_argument("--films", type=int, default=40, help="of every length below 64 groups; longer: half")
    parser.add_argument("--questions", type=int, default=20, help="about every film")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of questions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tables", type=Path, help="only show a result that is there, as Markdown")
    arguments = parser.parse_args()
    if arguments.tables:
        print(tables(json.loads(arguments.tables.read_text())["accuracy"]))
        return
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in arguments.models:
        lengths = arguments.lengths
        asked = measure(name, lengths, arguments.films, arguments.questions, arguments.seed, arguments.kinds)
        results[name] = {
            mode: {
                groups: {
                    kind: {"right": round(share, 4), "asked": count}
                    for kind, (share, count) in by_kind(
                        [a for a in asked if (a.mode, a.groups) == (mode, groups)]
                    ).items()
                }
                for groups in lengths
            }
            for mode in dict.fromkeys(a.mode for a in asked)
        }
    if arguments.json:
        facts = {
            "seed": arguments.seed,
            "versions": {
                "videoxl": videoxl.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "hardware": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        }
        staged = arguments.json.with_suffix(".part")
        staged.write_text(json.dumps({**facts, "accuracy": results}, indent=1) + "\n")
        staged.replace(arguments.json)


if __name__ == "__main__":
    main()
