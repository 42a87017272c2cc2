"""Committed results, scored again from their committed answers: the same numbers.

``benchmarks/rerun_evaluations.py`` asks the questions again too.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videoxl.evaluation.grounding import Event, score
from videoxl.evaluation.niah.summary import of_selector
from videoxl.scenarios.time_spans import TimeSpan

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
NIAH = sorted(path.parent.name for path in RESULTS.glob("niah/*/niah.json"))
GROUNDING = sorted(path.stem for path in RESULTS.glob("grounding/*.json"))


def test_there_are_results():
    assert len(NIAH) >= 8
    assert len(GROUNDING) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", NIAH)
def test_needles_in_haystacks(name):
    folder = RESULTS / "niah" / name
    result = json.loads((folder / "niah.json").read_text())
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    records = [line["record"] for line in lines if "way" in line.get("record", {})]
    for way, committed in result.get("ways", {"given": result}).items():
        found = json.loads(json.dumps(of_selector([record for record in records if record["way"] == way])))
        assert {name: committed[name] for name in found} == found


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUNDING)
def test_temporal_grounding(name):
    result = json.loads((RESULTS / "grounding" / f"{name}.json").read_text())
    events = [
        Event(one["key"], one["video"], one["query"], tuple(TimeSpan(*span) for span in one["truth"]))
        for one in result["samples"]
    ]
    texts = {one["key"]: one["text"] for one in result["samples"]}
    found = json.loads(json.dumps(score(events, texts)))
    assert {name: found[name] for name in result["scores"]} == result["scores"]
