"""Nothing in silence: what is not honoured, how much is downloaded, and what is done, on request."""

# ruff: noqa: F811  (fixtures of another file have the names of arguments)

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import typer

from tests.cli.test_cli import Run, film, one_line, videoxl  # noqa: F401  (fixtures)
from tests.inference.test_download import Hub, Usage, hub  # noqa: F401  (a fixture)
from videoxl.cli.main import main
from videoxl.cli.options import download

DENSE = ("--fps", 4, "--max-frames", 16, "-m", "tiny")


def test_a_rate_that_is_not_honoured_is_said_before_the_wait(videoxl: Run, film: Path, tmp_path: Path) -> None:
    said = "warning: 192 frames at 4.0 fps exceed max_frames=16: sampled evenly at 0.33 fps"
    asked = videoxl("ask", film, "What?", "--max-new-tokens", 2, "--json", *DENSE)
    assert asked.stderr.count(said) == 1
    assert asked.stderr.index(said) < asked.stderr.index("prefill: ")
    assert json.loads(asked.stdout)[0]["usage"]["frames_per_second"] == pytest.approx(1 / 3, abs=1e-4)
    kept = videoxl("encode", film, "-o", tmp_path / "a.vxl", "-q", *DENSE)
    assert kept.stderr.count(said) == 1
    assert "16 frames (0.33 a second), " in kept.stdout
    assert videoxl("chat", film, *DENSE).stderr.count(said) == 1
    many = videoxl("ask", film, film, "What?", "--question", "Why?", "-q", "--max-new-tokens", 2, *DENSE)
    assert many.stderr.count(said.removeprefix("warning: ")) == 1


def test_what_is_done_is_told_on_request(videoxl: Run, film: Path) -> None:
    told = videoxl("--verbose", "ask", film, "What?", "-m", "tiny", "--max-new-tokens", 2, "-q").stderr
    assert "videoxl.inference.loading: loaded tiny from " in told
    assert "videoxl.inference.encode: read 48 frames of " in told
    assert videoxl("ask", film, "What?", "-m", "tiny", "--max-new-tokens", 2, "-q").stderr == ""


def test_a_download_is_told_with_size_and_room(hub: Hub, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))  # no terminal
    download("owner/model", None, ask=True)
    said = capsys.readouterr().err
    assert "note: owner/model: 0.0 GB to download into " in said
    assert "download: 6 of 10 MB (60 %)\ndownload: 10 of 10 MB (100 %)\n" in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "fetched"), [("n\n", False), ("y\n", True), ("", False)])
def test_on_a_terminal_a_download_is_asked_for(hub: Hub, monkeypatch, answer: str, fetched: bool) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", Terminal())
    try:
        download("owner/model", None, ask=True)
    except typer.Abort:
        assert not fetched
    assert (("owner/model", None, False) in hub.asked) == fetched
    download("owner/model", None, ask=False)  # --yes
    assert hub.asked[-1][2] is False


def test_a_disk_without_room_is_one_line(hub: Hub, film: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("videoxl.inference.download.shutil.disk_usage", lambda folder: Usage(1))
    with pytest.raises(SystemExit) as ended:
        main(["ask", str(film), "What?", "-m", "owner/model"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "make room, or put the cache on another disk (HF_HOME)" in said
    assert len(said.rstrip("\n").split("\n")) == 1
