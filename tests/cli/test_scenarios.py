"""The scenario commands as their users meet them."""

from __future__ import annotations

import json

from tests.cli.test_cli import Run, one_line, videoxl  # noqa: F401 - a fixture


def test_commands(videoxl: Run, clip, tmp_path):  # noqa: F811
    options = ("--max-frames", 8, "--max-new-tokens", 4, "-q")
    for name, event in (("ground", ["a red star"]), ("find-anomalies", [])):
        result = videoxl(name, clip, *event, *options, "--json")
        assert result.returncode == 0
        for found in json.loads(result.stdout):
            assert set(found) == {"start", "end", "text"}
            assert 0 <= found["start"] <= found["end"] <= 10
    shown = videoxl("summarize", clip, *options, "--report", tmp_path / "report.html")
    assert shown.stdout.startswith("Summary: ")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_bad_usage(videoxl: Run, clip, tmp_path):  # noqa: F811
    assert "a question must be text" in one_line(videoxl("ground", clip, " "))
    assert "give a file in a folder that exists" in one_line(videoxl("summarize", clip, "--report", tmp_path / "a/b"))
    assert "unknown decode strategy" in one_line(videoxl("summarize", clip, "--decode", "nonsense"))
    assert videoxl("find-ads", tmp_path / "gone.mp4").returncode == 2
    assert "overlap must be" in one_line(videoxl("find-ads", clip, "--overlap", -1, "--max-frames", 4, "-q"))
