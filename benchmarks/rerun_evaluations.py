"""Run committed evaluation results again and compare every answer with the committed one.

``python benchmarks/rerun_evaluations.py`` runs the small ones: every needle-in-a-haystack result at its shortest
length, and temporal grounding on the short films. ``--all`` runs all of them whole, which takes hours on a CPU. Exits
with 1 if an answer differs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

import torch

from videoxl.evaluation.grounding_films import write_films

RESULTS = Path(__file__).parent / "results"
FILMS = {"short": (50, (8, 32)), "full": (10, (128, 128)), "chunked": (10, (128, 128)), "bilevel": (10, (128, 128))}
"""Films and their lengths in groups, of the results of temporal grounding (script/eval-grounding)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", help="results, such as niah/full or grounding/short; default: the small ones"
    )
    parser.add_argument("--all", action="store_true", help="all results, whole")
    given = parser.parse_args()
    names = given.names or [str(path.parent.relative_to(RESULTS)) for path in sorted(RESULTS.glob("niah/*/niah.json"))]
    names += [] if given.names else [f"grounding/{name}" for name in (FILMS if given.all else ["short"])]
    torch.set_num_threads(1)
    different = 0
    for name in names:
        kind = name.split("/")[0]
        with tempfile.TemporaryDirectory() as folder:
            same, others = (niah if kind == "niah" else grounding)(name, Path(folder), whole=given.all)
        print(f"{name}: {same} answers are the same, {len(others)} differ {others[:3] if others else ''}", flush=True)
        different += len(others)
    return int(bool(different))


def niah(name: str, folder: Path, *, whole: bool) -> tuple[int, list[str]]:
    """Run a haystack again, at its shortest length unless ``whole``, and compare what was answered by key."""
    result = json.loads((RESULTS / name / "niah.json").read_text())
    command = _without(shlex.split(result["run"]["command"]), "--output", "-o")
    if not whole:
        shortest = min(result["run"]["frames"])
        command = [*_without(command, "--frames"), "--frames", str(shortest)]
    _run([*command, "--output", str(folder), "--one-by-one", "--no-heatmap", "--quiet"])
    now = _answers(folder / "answers.jsonl")
    before = _answers(RESULTS / name / "answers.jsonl")
    missing = [key for key in now if key not in before]
    return _compared({key: before[key] for key in now if key in before}, now, missing)


def grounding(name: str, folder: Path, *, whole: bool) -> tuple[int, list[str]]:
    """Write the films again, ask about them, and compare the answers by key."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    films, groups = FILMS[name.split("/")[1]]
    events = write_films(folder / "films", films, groups, seed=900)
    command = _without(shlex.split(result["run"]["command"]), "--output", "-o")
    command[3:5] = [str(events), str(folder / "films" / "videos")]
    _run([*command, "-o", str(folder / "run"), "--one-by-one", "--quiet"])
    now = json.loads((folder / "run" / "grounding.json").read_text())
    texts = [{one["key"]: one["text"] for one in found["samples"]} for found in (result, now)]
    return _compared(*texts, [key for key in texts[0] if key not in texts[1]])


def _compared(before: dict[str, str], now: dict[str, str], missing: list[str]) -> tuple[int, list[str]]:
    same = [key for key, text in before.items() if now.get(key) == text]
    return len(same), [*missing, *(key for key in before if key not in same and key not in missing)]


def _without(command: list[str], *options: str) -> list[str]:
    """Leave out options with their values."""
    kept = []
    skip = False
    for word in command:
        if skip or word in options:
            skip = not skip
            continue
        kept.append(word)
    return kept


def _answers(log: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {line["key"]: line["record"]["text"] for line in lines if "way" in line.get("record", {})}


def _run(command: list[str]) -> None:
    """Run a command line of videoxl in this process. An exit status of 1 says that something failed."""
    from videoxl.cli.main import main as videoxl

    sys.argv = command
    try:
        videoxl()
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{shlex.join(command)} ended with {ended.code}") from None


if __name__ == "__main__":
    sys.exit(main())
