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


def test_ask_tells_where_it_looked_and_writes_a_page(videoxl: Run, film, tmp_path):  # noqa: F811
    path, made = film
    thing = made.events[2]
    start, end = made.time_of(thing.start), made.time_of(thing.end)
    report = tmp_path / "ask.html"
    said = videoxl("ask", path, "When is the yellow ring shown?", "--model", "tiny", "--report", report)
    assert said.stdout == f"{start}s to {end}s\n"
    looked = [line for line in said.stderr.split("\n") if line.startswith("looked at ")]
    assert len(looked) == 1
    assert "0:00:5" in looked[0]
    page = report.read_text(encoding="utf-8")
    assert 'class="lane looked"' in page
    assert "<video " in page
    assert "When is the yellow ring shown?" in page
    quiet = videoxl("ask", path, "When is the yellow ring shown?", "--model", "tiny", "-q", "--json")
    assert "looked at" not in quiet.stderr
    record = json.loads(quiet.stdout)
    record = record[0] if isinstance(record, list) else record
    assert start <= record["evidence"][0]["start"] < end
    assert "--report makes a page of one video" in one_line(
        videoxl("ask", path.parent, "Why?", "--model", "tiny", "--report", report)
    )


def test_captions_are_subtitles(videoxl: Run, film, tmp_path):  # noqa: F811
    written = tmp_path / "film.srt"
    assert videoxl("captions", film[0], "--model", "tiny", "--every", 60, "-o", written, "-q").returncode == 0
    assert "00:00:12,000 --> 00:00:16,000\na blue circle\n" in written.read_text(encoding="utf-8")
    assert "must end with" in one_line(videoxl("captions", film[0], "-o", tmp_path / "film.txt"))
    assert "above 0" in one_line(videoxl("captions", film[0], "--every", 0))
