"""``ask`` and ``encode-many`` with many videos: what lands where, and which argument is what."""

# ruff: noqa: F811  (fixtures of another file have the names of arguments)

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests import test_storage
from tests.cli.test_cli import Run, film, one_line, videoxl  # noqa: F401  (fixtures)
from videoxl.cli.ask import split_arguments
from videoxl.errors import ManyVideosError, VideoNotFoundError
from videoxl.many.record import AnswerRecord

QUICK = ("--max-new-tokens", 2, "--num-frames", 4, "-m", "tiny")


@pytest.fixture
def films(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a film, its copy, and a file that is no film."""
    folder = tmp_path / "films"
    folder.mkdir()
    shutil.copy(film, folder / "a.mp4")
    shutil.copy(film, folder / "b.mp4")
    (folder / "c.mp4").write_bytes(b"no film")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_folder_gives_rows_and_a_summary(videoxl: Run, films: Path, tmp_path: Path) -> None:
    result = videoxl("ask", "films", "What?", "-o", "answers.jsonl", *QUICK)
    assert (result.returncode, result.stdout) == (1, "")
    rows = [json.loads(line) for line in Path("answers.jsonl").read_text().split("\n") if line]
    assert [row["video"] for row in rows] == ["films/a.mp4", "films/b.mp4", "films/c.mp4"]
    assert "failed: films/c.mp4: c.mp4: looks like text" in result.stderr
    assert "note: answers.jsonl: 3 rows about 3 videos, 1 of them failed" in result.stderr
    again = videoxl("ask", "films", "What?", "-o", "answers.jsonl", *QUICK)
    assert (again.returncode, "answers.jsonl exists: go on with it (--resume)" in one_line(again)) == (2, True)
    (films / "c.mp4").unlink()
    resumed = videoxl("ask", "films", "What?", "-o", "answers.jsonl", "--resume", "--jsonl", "-q", *QUICK)
    assert resumed.returncode == 0
    assert [json.loads(line)["error"] for line in resumed.stdout.split("\n") if line] == [None, None]


def test_one_record_whatever_the_number_of_questions_and_videos(videoxl: Run, films: Path) -> None:
    for arguments in (
        ("films/a.mp4", "What?"),
        ("films/a.mp4", "What?", "When?"),
        ("films/a.mp4", "films/b.mp4", "What?"),
    ):
        printed = videoxl("ask", *arguments, "--json", "-q", *QUICK)
        lines = videoxl("ask", *arguments, "--jsonl", "-q", *QUICK)
        for record in (*json.loads(printed.stdout), *map(json.loads, lines.stdout.rstrip("\n").split("\n"))):
            assert list(record) == list(AnswerRecord.__dataclass_fields__)
            assert record["settings"].keys() == {
                "model",
                "fingerprint",
                "sampling",
                "prefill",
                "decode",
                "max_new_tokens",
            }
    texts = videoxl("ask", "films/[ab].mp4", "What?", "-q", *QUICK).stdout
    assert [line.partition(": ")[0] for line in texts.rstrip("\n").split("\n")] == ["films/a.mp4", "films/b.mp4"]


def test_encode_many_keeps_memories_that_can_be_asked(videoxl: Run, films: Path) -> None:
    made = videoxl("encode-many", "films", "-o", "kept", "--num-frames", 4, "-m", "tiny", "-q")
    assert (made.returncode, made.stdout) == (1, "kept/a.vxl\nkept/a.vxl\n")  # the copy shares it
    asked = videoxl("ask", "kept", "What?", "--max-new-tokens", 2, "--json", "-q")
    assert [record["error"] for record in json.loads(asked.stdout)] == [None]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("film.mp4 What?", (["film.mp4"], ["What?"])),
        ("film.mp4 notes", (["film.mp4"], ["notes"])),  # as it was before there could be several videos
        ("film.mp4 notes Why?", (["film.mp4", "notes"], ["Why?"])),
        ("film.mp4 b.mp4 Why? When?", (["film.mp4", "b.mp4"], ["Why?", "When?"])),
        ("film.mp4 *.mp4 Why?", (["film.mp4", "*.mp4"], ["Why?"])),
        ("list.csv", (["list.csv"], None)),
        ("list.csv b.mp4", (["list.csv", "b.mp4"], None)),
        ("gone.mp4 Why?", (["gone.mp4"], ["Why?"])),
    ],
)
def test_which_argument_is_what(tmp_path, monkeypatch, arguments, found):
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    for name in ("film.mp4", "b.mp4", "list.csv"):
        Path(name).touch()
    video, *rest = arguments.split(" ")
    assert split_arguments(video, rest, []) == found


def test_arguments_that_are_neither_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("film.mp4", "b.mp4"):
        Path(name).touch()
    assert split_arguments("film.mp4", ["b.mp4"], ["Why?"]) == (["film.mp4", "b.mp4"], ["Why?"])
    assert split_arguments("film.mp4", [], ["Why?"]) == (["film.mp4"], ["Why?"])
    with pytest.raises(VideoNotFoundError, match=r"c\.mp4: no such file"):
        split_arguments("film.mp4", ["c.mp4", "Why?"], [])
    with pytest.raises(ManyVideosError, match="name the videos before the questions"):
        split_arguments("film.mp4", ["Why?", "b.mp4"], [])
    for rest in ([], ["b.mp4"]):
        with pytest.raises(ValueError, match="Missing argument 'question'"):
            split_arguments("film.mp4", rest, [])
    assert split_arguments("film.mp4", ["Why? " * 2000], [])[1] == ["Why? " * 2000]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["empty", "What?"], "empty holds no videos and no pictures"),
        (["*.mp4", "What?"], "no file matches *.mp4"),
        (["list.csv"], "list.csv has no column 'question'; it has: video"),
        (["list.csv", "What?", "--video-column", "path"], "list.csv has no column 'path'"),
        (["list.csv", "--questions", "gone.txt"], "gone.txt cannot be read: No such file"),
        (["list.csv", "--questions", "q.pdf"], "give a .txt, .csv"),
        (["list.csv", "What?", "-o", "a.xlsx"], "the name of an output ends in .jsonl, .csv, .parquet"),
        (["list.csv", "What?", "--resume"], "nothing to resume: name the output"),
        (["film.mp4", "What?", "--resume"], "--resume goes on with an output"),
        (["list.csv", "What?", "--json", "--jsonl"], "give one of them"),
        (["list.csv", "What?", "--workers", "-1"], "workers must be a whole number of at least 0"),
        (["list.csv", "What?", "--subtitles", "a.srt"], "belong to one video"),
        (
            ["list.csv", "What?", "-o", "notes.jsonl", "--resume"],
            "line 1 is no row that this version writes",
        ),
    ],
)
def test_bad_input_is_one_line(videoxl: Run, tmp_path: Path, monkeypatch, arguments: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("list.csv").write_text("video\nfilm.mp4\n")
    Path("notes.jsonl").write_text('{"loss": 1}\n')
    result = videoxl("ask", *arguments, "-m", "tiny")
    assert result.returncode == 2
    assert said in one_line(result)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode-many", "s3://films/*.mp4", "-o", "out"], "needs a package that is not installed: Install s3fs"),
        (["encode-many", "nothing://films", "-o", "out"], "nothing:// is no storage"),
        (["encode-many", "denied://films/*.mp4", "-o", "out"], "check the keys of this storage"),
        (["encode-many", "memory://no-bucket/films", "-o", "out"], "no such file, folder or bucket"),
        (["encode-many", "memory://no-bucket/*.mp4", "-o", "out"], "no file matches memory://no-bucket/*.mp4"),
        (["encode-many", "film.mp4", "-o", "readonly://out"], "cannot be written (PermissionError: AccessDenied)"),
        (["encode-many", "film.mp4", "-o", "https://example.org/out"], "to which nothing can be written"),
        (["ask", "denied://films/a.mp4", "What?"], "check the keys of this storage"),
        (["ask", "film.mp4", "b.mp4", "What?", "-o", "readonly://out/a.jsonl"], "AccessDenied"),
        (["ask", "film.mp4", "b.mp4", "What?", "-o", "s3://out/a.jsonl"], "Install s3fs"),
        (["ask", "film.mp4", "What?", "--actors", "2"], "--actors belongs to --ray"),
        (["ask", "film.mp4", "What?", "--ray", "--actors", "0"], "actors must be at least 1, got 0"),
        (["encode-many", "film.mp4", "-o", "out", "--ray", "--workers", "2"], "with --ray give --actors"),
        (["encode-many", "film.mp4", "-o", "out", "--ray"], "needs ray: pip install 'videoxl[ray]'"),
        (["ask", "film.mp4", "What?", "--ray"], "needs ray: pip install 'videoxl[ray]'"),
    ],
)
def test_a_storage_or_cluster_that_cannot_be_used_is_one_line(
    videoxl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    test_storage.register()
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    monkeypatch.chdir(tmp_path)
    for name in ("film.mp4", "b.mp4"):
        (tmp_path / name).touch()
    result = videoxl(*arguments, "-m", "tiny")
    assert result.returncode == 2
    assert said in one_line(result)
