"""Does a second look help? Accuracy before and after, on generated films whose things pass too fast for the first rate.

    python benchmarks/look_again.py --json benchmarks/results/look_again-cpu2.json

Films of 64 s show four things for one to three seconds each. ``tiny`` was trained on things that fill all four frames
of a group: at four frames a second they do, at one or two they fill a part. The first reading is at ``fps``; the second
reads the stretch that the first answer's tokens looked at most. ``found``: the share of second looks that touch the
place where the answer is shown. ``whole``: the accuracy of reading all of the film at four frames a second at once,
which takes that many more tokens. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import videoxl
from videoxl.evaluation.metrics import wilson_interval
from videoxl.world import Question, ask, kinds_for, sample_film, write_film
from videoxl.world.questions import CONTENT

GROUPS, THINGS, STEP, FULL_FPS = 64, 4, 1.0, 4


def questions_of(film: Any, seed: int) -> list[Question]:
    """A question of each kind that can be asked."""
    source = np.random.default_rng((seed, 1))
    return [ask(source, film, kind) for kind in CONTENT if kind in kinds_for(film)]


def share(right: Sequence[bool]) -> dict[str, Any]:
    """A share with its interval."""
    return {"share": sum(right) / len(right), "interval": wilson_interval(sum(right), len(right)), "of": len(right)}


def measure(model: videoxl.VideoXL, films: int, fps: float) -> list[dict[str, Any]]:
    """Ask about ``films`` films, read at ``fps`` first, and look again without and with a margin."""
    looks = [videoxl.LookAgain(rate=FULL_FPS / fps, margin=margin) for margin in (0.0, FULL_FPS / fps)]
    rows: list[list[dict[str, Any]]] = [[] for _ in looks]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(films):
            film = sample_film(np.random.default_rng(seed), GROUPS, THINGS, step=STEP, begin=0.0)
            path = write_film(film, Path(folder) / "film.mp4", size=96)
            asked = questions_of(film, seed)
            texts = [question.text for question in asked]
            memory, whole = (model.encode(str(path), fps=rate) for rate in (fps, FULL_FPS))
            at_once = model.ask(whole, texts, max_new_tokens=24)
            for look, found in zip(looks, rows):
                answers = model.ask(memory, texts, look_again=look, max_new_tokens=24)
                found += [row_of(*each) for each in zip(asked, answers, at_once)]
    return [summary(found) | {"fps": fps, "margin": look.margin, "films": films} for look, found in zip(looks, rows)]


def row_of(question: Question, answer: videoxl.Answer, at_once: videoxl.Answer) -> dict[str, Any]:
    """What one question shows."""
    first = answer.first or answer
    truth = [(begin * STEP, end * STEP) for begin, end in question.evidence]
    best = first.evidence[0]
    return {
        "before": first.text == question.answer,
        "after": answer.text == question.answer,
        "whole": at_once.text == question.answer,
        "found": any(best.start < end and best.end > begin for begin, end in truth),
        "looked": answer.first is not None,
        "tokens": [each.usage.visual_tokens for each in (first, answer, at_once)],
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares over all questions, and over those whose place the first answer found."""
    found = [row for row in rows if row["found"]]
    tokens = np.mean([row["tokens"] for row in rows], axis=0).round(1).tolist()
    return {
        "looked_again": sum(row["looked"] for row in rows),
        **{name: share([row[name] for row in rows]) for name in ("before", "after", "whole", "found")},
        "where_found": {name: share([row[name] for row in found]) for name in ("before", "after")},
        "tokens": dict(zip(("first", "second", "whole"), tokens)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = videoxl.load("tiny")
    begin = time.perf_counter()
    results = [result for fps in (2, 1) for result in measure(model, given.films, fps)]
    for result in results:
        print(json.dumps(result))
    if given.json:
        made = {
            "benchmark": "look_again",
            "date": datetime.date.today().isoformat(),
            "hardware": f"{os.cpu_count()}-core {platform.machine()}",
            "seconds": round(time.perf_counter() - begin),
            "versions": {"videoxl": videoxl.__version__, "torch": torch.__version__},
            "model": {"name": repr(model), "fingerprint": model.fingerprint},
            "results": results,
        }
        given.json.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
