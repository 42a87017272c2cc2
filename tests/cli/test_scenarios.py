"""The scenario commands as their users meet them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import Run, one_line, videoxl  # noqa: F401 - a fixture
from videoxl.world import Film, sample_film, write_film


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> tuple[Path, Film]:
    """Two minutes in which four things are shown, and where they are."""
    film = sample_film(np.random.default_rng((900, 3)), 30, step=4.0, begin=0.0)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_film(film, path, size=96)
    return path, film


def test_events_are_found_where_they_are(videoxl: Run, film, tmp_path):  # noqa: F811
    path, made = film
    spans = [(made.time_of(event.start), made.time_of(event.end)) for event in made.events]
    found = videoxl("find-anomalies", path, "--model", "tiny", "--json", "-q", "--report", tmp_path / "report.html")
    assert found.returncode == 0
    events = json.loads(found.stdout)
    assert [(event["start"], event["end"]) for event in events] == spans
    texts = ["a blue circle", "an orange card with 8", "a yellow ring", "a green square"]
    assert [event["text"] for event in events] == texts
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<img ") == len(texts)
    assert "0:00:12.0 - 0:00:16.0</time><p>a blue circle</p>" in page
    one = videoxl("ground", path, "the yellow ring", "--model", "tiny", "--json", "-q")
    assert json.loads(one.stdout) == [{"start": 52.0, "end": 60.0, "text": "the yellow ring"}]


def test_the_terminal_shows_a_bar(videoxl: Run, film):  # noqa: F811
    shown = videoxl("summarize", film[0], "--model", "tiny", "--max-frames", 64, "--overlap", 8)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == "Summary: 4 found in 0:02:00 of film.mp4, read in 2 passes"
    assert lines[2] == "|" + " " * 6 + "##" + " " * 6 + "##" + " " * 10 + "####" + " " * 12 + "##" + " " * 16 + "|"
    assert lines[-1] == "0:01:24.0 - 0:01:28.0  a green square"
    assert "pass 1 of 2: 0.0s to 64.0s" in shown.stderr
    assert "pass 2 of 2: 56.0s to 120.0s" in shown.stderr


def test_bad_usage(videoxl: Run, clip, tmp_path):  # noqa: F811
    assert "a question must be text" in one_line(videoxl("ground", clip, " "))
    assert "give a file in a folder that exists" in one_line(videoxl("summarize", clip, "--report", tmp_path / "a/b"))
    assert "unknown decode strategy" in one_line(videoxl("summarize", clip, "--decode", "nonsense"))
    assert videoxl("find-ads", tmp_path / "gone.mp4").returncode == 2
    assert "overlap must be" in one_line(videoxl("find-ads", clip, "--overlap", -1, "--max-frames", 4, "-q"))
