"""``videoxl eval vnbench`` and ``grounding`` as their users meet them."""

from __future__ import annotations

import json
import shutil

from tests.cli.test_cli import Run, one_line, videoxl  # noqa: F401 - a fixture
from videoxl.evaluation.grounding import Event, score
from videoxl.evaluation.tables import text
from videoxl.scenarios.time_spans import TimeSpan


def test_grounding_fails_visibly_and_resumes(videoxl: Run, clip, tmp_path):  # noqa: F811
    shutil.copy(clip, tmp_path / "here.mp4")
    (tmp_path / "notes.txt").write_text("here 0 5##a star\ngone 0 5##a moon\n")
    command = ("eval", "grounding", tmp_path / "notes.txt", tmp_path, "-o", tmp_path / "out", "--max-frames", 4)
    first = videoxl(*command, "--max-new-tokens", 2)
    assert first.returncode == 1
    assert "1 FAILED and count as wrong:\n  00002 gone: not_found:" in first.stdout
    assert "video 1 of 2" in first.stderr
    assert "exists: resume it (--resume)" in one_line(videoxl(*command, "--max-new-tokens", 2, "-q"))
    shutil.copy(clip, tmp_path / "gone.mp4")
    again = videoxl(*command, "--max-new-tokens", 2, "--resume", "--json", "-q")
    assert again.returncode == 0
    shown = json.loads(again.stdout)
    kept = json.loads((tmp_path / "out" / "grounding.json").read_text(encoding="utf-8"))
    assert shown["scores"] == kept["scores"]
    assert shown["scores"]["unanswered"] == 0
    assert len(kept["samples"]) == 2
    assert kept["run"]["sampling"] == "fps=2.0,max_frames=4"


def test_bad_usage(videoxl: Run, tmp_path):  # noqa: F811
    (tmp_path / "notes.txt").write_text("here 0 5##a star\n")
    for command, option, complaint in (
        ("grounding", ("--prompt", "nonsense"), "--prompt must be one of default, timelens, charades, world"),
        ("grounding", ("--limit", 0), "--limit must be at least 1"),
        ("grounding", ("--fps", 0), "fps must be a finite number above 0"),
        ("vnbench", (), "are no JSON"),
        ("vnbench", ("--decode", "nonsense"), "unknown decode strategy"),
    ):
        result = videoxl("eval", command, tmp_path / "notes.txt", tmp_path, *option)
        assert complaint in one_line(result)
        assert result.returncode != 0


def test_tables():
    events = [Event(str(n), "v", "x", (TimeSpan(0, 10),)) for n in range(4)]
    scores = score(events, {"0": "0s to 10s", "1": "0s to 5s", "2": "never"})
    run = dict.fromkeys(("model", "prompt", "sampling", "prefill", "decode", "dtype", "hardware"), "x")
    shown = text({"benchmark": "grounding", "scores": scores, "run": run, "failed": {"3": "gone"}})
    assert "R1@0.3  50.0  50.0 to 50.0\nR1@0.5  50.0  50.0 to 50.0\nR1@0.7  25.0  25.0 to 25.0\n" in shown
    assert "mIoU    37.5" in shown
    assert "4 events in 1 videos; 1 answers name no time, 1 are missing" in shown
    assert shown.endswith("1 FAILED and count as wrong:\n  3: gone")
