"""What a run leaves in a folder: ``niah.json``, ``cells/*.json``, ``heatmap.png``, beside its ``answers.jsonl``.

Where ways are compared, ``heatmap.png`` has them side by side, and ``heatmap-WAY.png`` each by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from videoxl.evaluation.log import write_json
from videoxl.evaluation.niah.heatmap import draw_heatmap

ANSWERS = "answers.jsonl"


def write_results(folder: Path, result: Mapping[str, Any], *, heatmap: bool = True) -> None:
    """Write the files of a result; the cells' hold their answers. Raises :class:`EvaluationError` where it cannot."""
    write_json(folder / "niah.json", result)
    answers = _answers(folder / ANSWERS)
    ways = result.get("ways", {"given": result})
    for way, found in ways.items():
        for cell in found["cells"]:
            place = (way, cell["frames"], cell["depth"])
            own = [r for r in answers if (r["way"], r["frames"], r["depth"]) == place]
            name = f"{cell['frames']}-{cell['depth']:g}" + (f"-{way}" if "ways" in result else "")
            write_json(folder / "cells" / f"{name}.json", {**cell, "answers": own})
    if heatmap:
        draw_heatmap(result, folder / "heatmap.png")
        for way, found in result.get("ways", {}).items():
            draw_heatmap({**result, "ways": {way: found}}, folder / f"heatmap-{way}.png")


def _answers(log: Path) -> list[dict[str, Any]]:
    """The answered questions of a log, without the control's."""
    return [record for record in _records(log) if "way" in record]


def _records(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8").splitlines()[1:]:
        found = json.loads(line)
        if "record" in found:
            yield found["record"]
