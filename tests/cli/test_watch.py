"""``videoxl watch``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.conftest import FILM
from videoxl.cli.main import main
from videoxl.cli.watch import bytes_in, parse_question, seconds_in
from videoxl.world import write_film


@pytest.mark.parametrize(
    ("line", "about", "question"),
    [
        ("What is shown?", "now", "What is shown?"),
        ("all: What is shown?", "all", "What is shown?"),
        ("now: Is it 12:30?", "now", "Is it 12:30?"),
        ("1:00-1:02:03.5: What is shown?", (60.0, 3723.5), "What is shown?"),
        ("Note: what is it?", "now", "Note: what is it?"),
    ],
)
def test_a_line_says_what_it_is_about(line, about, question):
    assert parse_question(line) == (about, question)


def test_times_and_sizes_have_units():
    assert (seconds_in("15m", "-"), seconds_in("1.5h", "-"), seconds_in("7d", "-")) == (900.0, 5400.0, 604_800.0)
    assert (bytes_in("500MB", "-"), bytes_in("20 gb", "-")) == (500_000_000, 20_000_000_000)
    for wrong in ("", "15", "0s", "-1s", "1e9s", "nan", "5 minutes"):
        with pytest.raises(ValueError, match="--segment must be a time"):
            seconds_in(wrong, "--segment")
        with pytest.raises(ValueError, match="--keep-bytes must be a size"):
            bytes_in(wrong, "--keep-bytes")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ftp://u:hush@h/x"], "is not read as a stream"),
        (["none.ts"], "no such file"),
        (["x.ts", "--segment", "soon"], "--segment must be a time"),
        (["x.ts", "--alert", "a?", "--alert-of", "3/2"], "--alert-of"),
        (["x.ts", "--fps", "0"], "--fps"),
        (["x.ts", "--keep", "1h", "--keep-vectors", "1m"], "must ascend"),
        (["-", "--ask"], "leave one out"),
    ],
)
def test_bad_input_is_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.html").write_text("<!doctype html><p>hello" + " " * 9000)
    with pytest.raises(SystemExit) as ended:
        main(["watch", *arguments, "--model", "tiny", "--out", "out"])
    assert ended.value.code == 2
    shown = capsys.readouterr().err.strip()
    assert said in shown.split("\n")[-1]
    assert "hush" not in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_file_is_watched_and_interrupted(tmp_path):
    import av

    write_film(FILM, tmp_path / "film.mp4", frame_repeat=4)
    with av.open(str(tmp_path / "film.mp4")) as film, av.open(str(tmp_path / "film.ts"), "w", format="mpegts") as made:
        copy = made.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                made.mux(packet)
    command = [sys.executable, "-m", "videoxl", "watch", "film.ts", "--model", "tiny", "--out", "out", "--json"]
    command += ["--segment", "16s", "--stretch", "4", "--alert", "Is there a red star?", "--alert-of", "1/1", "--ask"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdin.write("all: Is there a red star?\n")
        process.stdin.close()
        told = []
        for line in process.stdout:
            told.append(json.loads(line))
            if told[-1]["kind"] == "segment":
                process.send_signal(signal.SIGINT)
                break
        told += [json.loads(line) for line in process.stdout]
    assert process.returncode == 128 + signal.SIGINT
    alerts = [(one["state"], one["since"]) for one in told if one["kind"] == "alert"]
    assert alerts[0] == ("fired", 8.0)
    assert sum(one["frames"] for one in told if one["kind"] == "segment") >= 20
    assert len([*Path(tmp_path / "out" / "segments").glob("*.vxl")]) >= 2
