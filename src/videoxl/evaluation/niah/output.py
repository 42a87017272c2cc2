"""Write what a run leaves in a folder: ``niah.json``, ``cells/*.json``, ``heatmap.png``, beside ``answers.jsonl``.

Where selectors are compared, ``heatmap.png`` shows them side by side, and ``heatmap-SELECTOR.png`` each by itself.
"""

from __future__ import annotations

from pathlib import Path

from videoxl.errors import EvaluationError
from videoxl.evaluation.log import Json, write_json
from videoxl.evaluation.niah.heatmap import draw_heatmap
from videoxl.evaluation.niah.settings import GIVEN
from videoxl.json_lines import read_json_lines

ANSWERS = "answers.jsonl"


def write_results(folder: Path, result: Json, *, heatmap: bool = True) -> None:
    """Write the files of a result; those of cells hold their answers. Raises :class:`EvaluationError` if it cannot."""
    write_json(folder / "niah.json", result)
    answers = _answers(folder / ANSWERS)
    by_selector: dict[str, Json] = result.get("ways", {GIVEN: result})
    for selector, found in by_selector.items():
        for cell in found["cells"]:
            own = [
                r for r in answers if (r["way"], r["frames"], r["depth"]) == (selector, cell["frames"], cell["depth"])
            ]
            name = f"{cell['frames']}-{cell['depth']:g}" + (f"-{selector}" if "ways" in result else "")
            write_json(folder / "cells" / f"{name}.json", {**cell, "answers": own})
    if heatmap:
        draw_heatmap(result, folder / "heatmap.png")
        for selector, found in result.get("ways", {}).items():
            draw_heatmap({**result, "ways": {selector: found}}, folder / f"heatmap-{selector}.png")


def _answers(log: Path) -> list[Json]:
    """Return the answered questions of a log, without those asked without video."""
    records = [line["record"] for _, line in read_json_lines(log, EvaluationError) if "record" in line]
    return [record for record in records if "way" in record]
