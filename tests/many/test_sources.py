"""Which videos are meant by files, folders, patterns and tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videoxl.errors import ManyVideosError
from videoxl.many.sources import Columns, VideoJob, digest_of, find_videos, is_pattern


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "films"
    (folder / "deep").mkdir(parents=True)
    for name in ("10.mp4", "2.MKV", "notes.txt", "2.srt", "._2.mkv", "film.vxl", "deep/a.webm"):
        (folder / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return folder


def names(found) -> list[str]:
    return [job.video for job in found.jobs]


def test_a_folder_gives_its_videos_in_natural_order_and_names_what_is_left_out(films):
    found = find_videos("films", ["What?"])
    assert names(found) == ["films/2.MKV", "films/10.mp4", "films/film.vxl"]
    assert found.notes == ("films: not read, as no videos by their names: 2.srt, notes.txt",)
    assert not found.single
    assert found.jobs[0] == VideoJob("films/2.MKV", ("What?",))


def test_a_pattern_may_reach_into_folders(films):
    assert names(find_videos("films/**/*.[mw]*", ["?"])) == ["films/10.mp4", "films/deep/a.webm"]
    (films / "a[1].mp4").touch()
    assert not is_pattern("films/a[1].mp4")  # the name of a file


def test_one_file_and_a_folder_of_pictures_are_single(films):
    assert find_videos("films/10.mp4", ["?"]).single
    (films / "deep/a.webm").unlink()
    (films / "deep/1.jpg").touch()
    assert find_videos("films/deep", ["?"]).single
    assert find_videos("gone.mp4", ["?"]).single  # opening it says what is wrong
    assert not find_videos(["films/10.mp4", "films/2.MKV"], ["?"]).single


def test_a_video_that_is_named_twice_is_read_once(films):
    found = find_videos(["films/10.mp4", "./films/10.mp4", "films"], ["What?"])
    assert names(found) == ["films/10.mp4", "films/2.MKV", "films/film.vxl"]
    assert found.notes[0] == "./films/10.mp4 is named twice; it is read once"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], "no videos given"),
        ("films/*.avi", r"no file matches films/\*\.avi; check the pattern"),
        ("film[s]", "it matches 1 folders, and files are meant"),
        ("empty", r"empty holds no videos and no pictures, by the ends of their names$"),
        ("outer", r"for those in its folders give the pattern 'outer/\*\*/\*\.mp4'"),
    ],
)
def test_no_videos_are_one_line(films, given, error):
    Path("empty").mkdir()
    Path("outer/inner").mkdir(parents=True)
    with pytest.raises(ManyVideosError, match=error):
        find_videos(given, ["What?"])


TABLES = {
    "list.csv": '\ufeffvideo,question,id\r\nfilms/10.mp4,"What, and\nwhen?",1\r\n\r\n'
    "films/10.mp4,Who?,2\r\nfilms/2.MKV,Who?,3\r\n",
    "list.tsv": 'question\tvideo\n"What, and\nwhen?"\tfilms/10.mp4\nWho?\tfilms/10.mp4\nWho?\tfilms/2.MKV\n',
    "list.jsonl": "".join(
        json.dumps({"video": video, "question": question}) + "\n"
        for video, question in (("films/10.mp4", "What, and\nwhen?"), ("films/10.mp4", "Who?"), ("films/2.MKV", "Who?"))
    ),
}


@pytest.mark.parametrize("name", [*TABLES, "list.parquet"])
def test_tables_of_every_kind_say_the_same(films, name):
    if name == "list.parquet":
        import pyarrow
        from pyarrow import parquet

        rows = [json.loads(line) for line in TABLES["list.jsonl"].split("\n") if line]
        parquet.write_table(pyarrow.Table.from_pylist(rows), name)
    else:
        Path(name).write_text(TABLES[name], encoding="utf-8", newline="")
    found = find_videos(name)
    assert found.jobs == (
        VideoJob("films/10.mp4", ("What, and\nwhen?", "Who?")),
        VideoJob("films/2.MKV", ("Who?",)),
    )
    given = find_videos(name, ["How?"])
    assert given.jobs[0] == VideoJob("films/10.mp4", ("How?",))
    assert "its column 'question' is not read" in given.notes[0]


def test_paths_of_a_table_lie_beside_it(films):
    (films / "list.txt").write_text("10.mp4\n\nfilms/2.MKV\n", encoding="utf-8")
    assert names(find_videos("films/list.txt", ["?"])) == ["films/10.mp4", "films/2.MKV"]


def test_rows_that_cannot_be_read_are_jobs_that_fail(films):
    Path("list.csv").write_text(
        "video,question\n,Who?\nfilms/10.mp4\nfilms/2.MKV,Who?\nfilms/2.MKV,\n", encoding="utf-8"
    )
    problems = [job.problem for job in find_videos("list.csv").jobs]
    assert problems == [
        None,
        "list.csv, line 2: column 'video' must hold text, it holds nothing",
        "list.csv, line 3 has 1 cells, the first line names 2 columns",
        "list.csv, line 5: column 'question' must hold text, it holds nothing",
    ]
    Path("list.jsonl").write_text('{"video": 3, "question": "Who?"}\n{"video"\n', encoding="utf-8")
    problems = [job.problem for job in find_videos("list.jsonl").jobs]
    assert problems[0] == "list.jsonl, line 1: column 'video' must hold text, it holds 3"
    assert "list.jsonl, line 2 is damaged" in problems[1]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"path,question\na.mp4,Who?\n", "no column 'video'; it has: path, question; name one by --video-column"),
        (b"video,text\na.mp4,Who?\n", "no column 'question'; it has: video, text; name one by --question-column"),
        (b"video,question\n", "list.csv has no rows"),
        (b"", "list.csv has no rows"),
        (b"video\n\xff\n", "list.csv is not UTF-8 at byte 6"),
        (b'video,question\n"a.mp4,Who?\n', "list.csv, line 2 cannot be read"),
        (b"video,question,video\na,b,c\n", "several columns named 'video'"),
    ],
)
def test_a_table_of_which_nothing_can_be_read_is_refused(films, content, error):
    Path("list.csv").write_bytes(content)
    with pytest.raises(ManyVideosError, match=error):
        find_videos("list.csv")


def test_columns_may_have_other_names(films):
    Path("list.csv").write_text("path,text\nfilms/10.mp4,Who?\n", encoding="utf-8")
    assert find_videos("list.csv", None, Columns("path", "text")).jobs == (VideoJob("films/10.mp4", ("Who?",)),)


def test_a_digest_follows_the_content(films):
    before = digest_of("films/10.mp4")
    assert before == digest_of(str(films / "10.mp4")) != digest_of("films/2.MKV")
    folder = digest_of("films")
    (films / "10.mp4").write_bytes(b"other")
    assert digest_of("films/10.mp4") != before
    assert digest_of("films") != folder
