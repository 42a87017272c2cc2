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
import json
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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


def measure(model: videoxl.VideoXL, films: int, fps: float, margin: float) -> dict[str, Any]:
    """Ask about ``films`` films, read at ``fps`` first."""
    rows: list[dict[str, Any]] = []
    look = videoxl.LookAgain(rate=FULL_FPS / fps, margin=margin)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(films):
            film = sample_film(np.random.default_rng(seed), GROUPS, THINGS, step=STEP, begin=0.0)
            path = write_film(film, Path(folder) / "film.mp4", size=96)
            asked = questions_of(film, seed)
            texts = [question.text for question in asked]
            memory, whole = (model.encode(str(path), fps=rate) for rate in (fps, FULL_FPS))
            answers = model.ask(memory, texts, look_again=look, max_new_tokens=24)
            at_once = model.ask(whole, texts, max_new_tokens=24)
            for question, answer, other in zip(asked, answers, at_once):
                first = answer.first or answer
                truth = [(begin * STEP, end * STEP) for begin, end in question.evidence]
                best = first.evidence[0]
                rows.append(
                    {
                        "before": first.text == question.answer,
                        "after": answer.text == question.answer,
                        "whole": other.text == question.answer,
                        "found": any(best.start < end and best.end > begin for begin, end in truth),
                        "looked": answer.first is not None,
                        "tokens": [first.usage.visual_tokens, answer.usage.visual_tokens, other.usage.visual_tokens],
                    }
                )
    found = [row for row in rows if row["found"]]
    tokens = np.mean([row["tokens"] for row in rows], axis=0).round(1).tolist()
    return {
        "fps": fps,
        "margin": margin,
        "films": films,
        "looked_again": sum(row["looked"] for row in rows),
        **{name: share([row[name] for row in rows]) for name in ("before", "after", "whole", "found")},
        "where_found": {name: share([row[name] for row in found]) for name in ("before", "after")},
        "tokens": dict(zip(("first", "second", "whole"), tokens)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--films", type=int, default=14)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = videoxl.load("tiny")
    results = [measure(model, given.films, fps, margin) for fps in (2, 1) for margin in (0.0, FULL_FPS / fps)]
    for result in results:
        print(json.dumps(result))
    if given.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "model": "tiny"}
        made = {"benchmark": "look_again", "run": machine, "results": results}
        given.json.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
