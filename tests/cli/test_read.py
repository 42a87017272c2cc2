from __future__ import annotations

import json

from tests.cli.test_cli import videoxl  # noqa: F401
from tests.words.pages import film, page, require_ocr
from videoxl.words import screen_kept
from videoxl.words.cache import TrackCache


def test_text_is_read_once_and_then_taken_from_the_cache(videoxl, tmp_path, monkeypatch):  # noqa: F811
    require_ocr()
    monkeypatch.setattr(screen_kept, "TrackCache", lambda: TrackCache(tmp_path / "cache"))
    video = film(tmp_path / "page.mp4", [(page([(20, 40, "<b>Ships</b> 42")]), 2)])
    out = tmp_path / "page.vtt"
    first = videoxl("read", video, "-o", out, "--json")
    assert first.returncode == 0
    (cue,) = json.loads(first.stdout)["cues"]
    assert (cue["start_s"], cue["end_s"]) == (0, 2)
    assert len(cue["box"]) == 4
    assert "&lt;b&gt;Ships&lt;/b&gt; 42" in out.read_text()
    assert "text: 2 of 2 frames" in first.stderr
    second = videoxl("read", video)
    assert second.stdout == "0:00:00.0 - 0:00:02.0  <b>Ships</b> 42\n"
    assert "frames" not in second.stderr


def test_bad_input_is_one_line(videoxl, clip, tmp_path):  # noqa: F811
    require_ocr()
    for arguments in (["-o", "text.doc"], ["--fps", "0"], ["--min-confidence", "2"], ["--start", "99"]):
        result = videoxl("read", clip, "--no-cache", *arguments)
        assert result.returncode == 2, arguments
        assert result.stderr.count("\n") == 1
    assert videoxl("read", tmp_path / "nowhere.mp4").returncode == 2
