"""``script/gpu``: a part that fails is said and loses no other; all of it runs, shortened, on the simulated device."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.gpu.__main__ import PARTS, Part, run, run_part
from benchmarks.gpu.sizes import SHORT

ROOT = Path(__file__).resolve().parents[2]


def _fails(_: object) -> dict[str, object]:
    raise RuntimeError("no such kernel")


def test_a_part_that_fails_or_takes_too_long_loses_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.__main__.trace", lambda sizes, output: {"top": []})
    parts = (
        Part("one", 5, lambda sizes: {"layers": sizes.layers}),
        Part("two", 5, _fails),
        Part("three", 0.05, lambda sizes: time.sleep(30) or {}),
        Part("four", 5, lambda sizes: {"fine": True}),
    )
    run(parts, tmp_path, simulated=True)
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert found["one"]["layers"] == SHORT.layers
    assert found["two"]["error"] == "RuntimeError: no such kernel"
    assert found["three"]["error"].startswith("OutOfTimeError")
    assert found["four"]["fine"]


def test_a_part_for_which_no_time_is_left_is_left_out() -> None:
    assert "left out" in run_part(PARTS[0], SHORT, simulated=True, left=1.0)["error"]


def test_parts_have_budgets_that_fit_the_whole() -> None:
    assert {part.name.split()[0] for part in PARTS} >= {"parity", *(f"S{number}" for number in range(1, 9))}
    assert all(0 < part.budget <= 130 for part in PARTS)


@pytest.mark.slow
def test_all_of_it_runs_on_the_simulated_device(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--simulated", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert not {name: found for name, found in result["parts"].items() if "error" in found}, done.stderr[-2000:]
    assert done.returncode == 0
    assert result["parts"]["parity"]["passed"]
    assert result["machine"]["packages"]["torch"]
    assert {path.name for path in tmp_path.iterdir()} >= {"gpu.json", "trace.json.gz"}
