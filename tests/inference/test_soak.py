"""Threads side by side for ``VIDEOXL_SOAK_SECONDS`` (half a minute), as benchmarks/soak.py runs them for hours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def soak(*options: str, seconds: float) -> dict:
    """Run the soak in a process of its own: interrupts are sent to its threads."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), *options],
        capture_output=True,
        text=True,
        timeout=seconds + 500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_threads_that_are_interrupted_give_what_one_alone_gives():
    seconds = float(os.environ.get("VIDEOXL_SOAK_SECONDS", "30"))
    found = soak("--seconds", str(seconds), seconds=seconds)
    assert found["rounds"] >= seconds / 2
    assert found["interrupts"] > 0
    assert found["wrong_rounds"] == []
    assert found["error_texts"] == []
