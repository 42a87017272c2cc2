"""Videos, memories and rows in a storage: the results are those of this machine."""

from __future__ import annotations

import json
import uuid

import pytest

import videoxl
from videoxl.errors import ManyVideosError
from videoxl.many import stored_lines
from videoxl.many.places import is_whole, place_of
from videoxl.many.record import AnswerRecord
from videoxl.many.row_file import RowFile
from videoxl.many.sources import digest_of, find_videos
from videoxl.many.stored_lines import StoredLines
from videoxl.storage import StoragePath

QUICK = {"num_frames": 4}


@pytest.fixture
def bucket():
    return StoragePath(f"memory://{uuid.uuid4().hex}", ManyVideosError)


@pytest.fixture
def films(bucket, world):
    """Two films and a file that is none, in a storage."""
    for name in ("00000.mp4", "00001.mp4"):
        (bucket / "films" / name).write((world.folder / name).read_bytes())
    (bucket / "films" / "bad.mp4").write(b"no film")
    (bucket / "films" / "notes.txt").write(b"notes")
    return bucket / "films"


def names(folder, pattern="*"):
    return [file.name for file in folder.files(pattern)]


def test_videos_are_found_in_folders_patterns_and_tables(films, bucket, world):
    by_folder = find_videos(str(films), ["What?"])
    assert [job.video for job in by_folder.jobs] == [str(films / n) for n in ("00000.mp4", "00001.mp4", "bad.mp4")]
    assert "notes.txt" in by_folder.notes[0]
    assert find_videos(f"{films}/0*.mp4", ["What?"]).jobs == by_folder.jobs[:2]
    (bucket / "list.csv").write(b"video,question\nfilms/00000.mp4,Who?\n/etc/passwd,What?\n")
    jobs = find_videos(f"{bucket}/list.csv").jobs
    assert [job.video for job in jobs] == [str(films / "00000.mp4"), f"{bucket}//etc/passwd"]
    local = world.folder / "00000.mp4"
    assert find_videos(f"file://{local}", ["What?"]).jobs[0].video == str(local)
    assert digest_of(str(films / "00000.mp4")) == digest_of(str(local))


def test_answers_are_those_of_files_here(films, bucket, taught, world):
    asked = ["What is shown first?"]
    given = {"model": taught, "max_new_tokens": 8, **QUICK}
    there = list(videoxl.answer_many(str(films), asked, output=f"{bucket}/out/answers.jsonl", **given))
    here = list(videoxl.answer_many(str(world.folder / "0000[01].mp4"), asked, **given))
    assert [row.answer for row in there[:2]] == [row.answer for row in here]
    assert "no film" in there[2].error or "text" in there[2].error
    assert [row.key for row in there[:2]] == [row.key for row in here]
    lines = (bucket / "out" / "answers.jsonl").read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(json.dumps(row.to_dict())) for row in there]
    assert names(bucket / "out" / "answers.jsonl.parts") == []
    with pytest.raises(ManyVideosError, match="exists: go on with it"):
        videoxl.answer_many(str(films), asked, output=f"{bucket}/out/answers.jsonl", **given)
    list(videoxl.answer_many(str(films / "00000.mp4"), asked, output=f"{bucket}/out/a.csv", **given))
    assert (bucket / "out" / "a.csv").read_bytes().startswith(b"video,model,question,answer")


def test_memories_go_up_and_what_is_damaged_or_gone_is_made_anew(films, bucket, taught, monkeypatch):
    folder = bucket / "memories"
    records = list(videoxl.encode_many(f"{films}/0*.mp4", str(folder), model=taught, **QUICK))
    assert [record.memory for record in records] == [str(folder / f"{n}.vxl") for n in ("00000", "00001")]
    assert all(is_whole(record.memory, record.file_bytes) for record in records)
    content = (folder / "00000.vxl").read_bytes()
    damaged = bytearray(content)
    damaged[-100] ^= 1
    (folder / "00000.vxl").write(bytes(damaged))
    (folder / ".00009.vxl.0123456789abcdef.tmp").write(b"half of an upload")
    read = []
    encode = taught.encode
    monkeypatch.setattr(taught, "encode", lambda source, **more: (read.append(source.name), encode(source, **more))[1])
    again = list(videoxl.encode_many(f"{films}/0*.mp4", str(folder), model=taught, resume=True, **QUICK))
    assert (read, [record.error for record in again]) == (["00000.mp4"], [None, None])
    assert (folder / "00000.vxl").read_bytes()[-100:] == content[-100:]
    assert names(folder) == ["00000.vxl", "00001.vxl", "memories.jsonl"]
    assert names(folder, ".*") == []
    rows = [json.loads(line)["video"] for line in (folder / "memories.jsonl").read_bytes().splitlines()]
    assert sorted(rows) == [str(films / "00000.mp4"), str(films / "00001.mp4")]
    asked = list(videoxl.answer_many(str(folder), "What?", model=taught, max_new_tokens=2))
    assert [row.error for row in asked] == [None, None]


def test_two_films_of_one_name_do_not_take_it_from_one_another(world, taught, tmp_path):
    for name, film in (("a", "00000"), ("b", "00001")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "film.mp4").write_bytes((world.folder / f"{film}.mp4").read_bytes())
    jobs = [str(tmp_path / name / "film.mp4") for name in "ab"]
    rows = list(videoxl.encode_many(jobs, tmp_path / "out", model=taught, **QUICK))
    assert rows[0].memory == str(tmp_path / "out" / "film.vxl")
    assert rows[1].memory == str(tmp_path / "out" / f"film-{rows[1].key[:8]}.vxl")


def row(number, **more):
    return AnswerRecord(video=f"{number}.mp4", model="m", question="?", answer="!", key=f"k{number}", **more)


def test_rows_survive_a_kill_and_are_joined(bucket, monkeypatch):
    monkeypatch.setattr(stored_lines, "MOST_PARTS", 3)
    path = bucket / "answers.jsonl"
    file = RowFile(str(path), AnswerRecord)
    for number in range(5):
        file.add(row(number))
    file.add(row(9, error="cannot be read"))
    assert len(names(bucket / "answers.jsonl.parts")) < 5
    assert not path.exists()
    with pytest.raises(ManyVideosError, match="exists: go on with it"):
        RowFile(str(path), AnswerRecord)
    with RowFile(str(path), AnswerRecord, resume=True) as resumed:  # the first one was killed
        assert [one.video for one in resumed.rows] == [f"{number}.mp4" for number in range(5)]
        resumed.add(row(9))
        resumed.add(row(0))  # once more, as after a damaged file
    assert names(bucket / "answers.jsonl.parts") == []
    videos = [json.loads(line)["video"] for line in path.read_bytes().splitlines()]
    assert sorted(videos) == [f"{number}.mp4" for number in (0, 1, 2, 3, 4, 9)]
    assert StoredLines(path).mend().whole[0].place == f"{path}, line 1"


def test_a_place_keeps_both_slashes():
    assert str(place_of("s3://bucket/a")) == "s3://bucket/a"
    assert str(place_of("file:///a/b")) == "/a/b"
