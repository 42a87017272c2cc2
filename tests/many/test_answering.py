"""Many videos: every row once, whatever happens in between, and failures are rows."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import videoxl
from tests.many.conftest import World
from videoxl import AnswerRecord, answer_many
from videoxl.errors import ManyVideosError
from videoxl.many.answering import Asking, answer_video
from videoxl.many.sources import VideoJob

QUICK = {"max_new_tokens": 2, "num_frames": 4}


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def table_of(world: World, path: Path) -> Path:
    """A table with a row for each question."""
    rows = [
        {"video": str(world.folder / film), "question": text}
        for film, asked in world.questions.items()
        for text in asked
    ]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["video", "question"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def finished(world, taught, tmp_path_factory) -> Path:
    """Rows of two films and of one that is none."""
    folder = tmp_path_factory.mktemp("finished")
    for name in sorted(world.questions)[:2]:
        shutil.copy(world.folder / name, folder)
    (folder / "broken.mp4").write_bytes(b"no film")
    list(answer_many(folder, ["What?", "When?"], model=taught, output=folder / "answers.jsonl", **QUICK))
    return folder


def test_every_video_has_a_row_and_a_failure_is_one(finished):
    rows = rows_of(finished / "answers.jsonl")
    assert Counter((Path(row["video"]).name, row["question"]) for row in rows) == {
        (name, question): 1 for name in ("00000.mp4", "00001.mp4", "broken.mp4") for question in ("What?", "When?")
    }
    for row in rows:
        assert list(row) == list(AnswerRecord.__dataclass_fields__)
        failed = "broken" in row["video"]
        assert (row["answer"] is None) == (row["usage"] is None) == failed
        assert ("looks like text" in (row["error"] or "")) == failed
        assert row["model"] == "tiny"


def test_questions_of_one_video_are_answered_in_one_go(finished):
    rows = [row for row in rows_of(finished / "answers.jsonl") if "00000" in row["video"]]
    assert [row["usage"]["together"] for row in rows] == [2, 2]


def test_what_is_finished_is_not_asked_again_and_failures_are(finished, taught, monkeypatch, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "00001.mp4", tmp_path / "broken.mp4")
    path = tmp_path / "answers.jsonl"
    path.write_text(path.read_text().replace(str(finished), str(tmp_path)))
    before = [row for row in rows_of(path) if not row["error"]]
    monkeypatch.setattr(type(taught), "encode", lambda *given, **more: pytest.fail("a video was read again"))
    records = list(answer_many(tmp_path, ["What?", "When?"], model=taught, output=path, resume=True, **QUICK))
    after = rows_of(path)
    assert [row for row in after if "broken" not in row["video"]] == before
    copied = [record for record in records if "broken" in record.video]
    assert [record.error for record in copied] == [None, None]
    assert all("has the same content as" in record.warnings[-1] for record in copied)
    assert len(after) == len(records) == 6


def test_an_output_of_another_run_is_refused_and_nothing_is_lost(finished, taught, tmp_path):
    path = tmp_path / "answers.jsonl"
    shutil.copy(finished / "answers.jsonl", path)
    before = path.read_bytes()
    again = {"model": taught, "output": path, **QUICK}
    with pytest.raises(ManyVideosError, match=r"answers\.jsonl exists: go on with it \(--resume\), name another"):
        answer_many(finished, "What?", **again)
    with pytest.raises(ManyVideosError, match="other settings: max_new_tokens was 2, is now 3"):
        answer_many(finished, "What?", **again | {"max_new_tokens": 3}, resume=True)
    assert len(rows_of(path)) == 4  # failed ones are to be tried again
    path.write_bytes(before + b'{"loss": 2}\n')
    with pytest.raises(ManyVideosError, match="line 7 is no row that this version writes"):
        answer_many(finished, "What?", **again, resume=True)
    assert path.read_bytes() == before + b'{"loss": 2}\n'
    with pytest.raises(ManyVideosError, match=r"ends in \.jsonl, \.csv, \.parquet"):
        answer_many(finished, "What?", model=taught, output=tmp_path / "answers.txt")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"questions": []}, "no question given"),
        ({"questions": ["What?", " "]}, "a question must be text"),
        ({"workers": -1}, "workers must be a whole number"),
        ({"max_frame": 3}, "answer_many has no setting 'max_frame'; did you mean max_frames"),
        ({"encode": {"frames": [1]}}, "many videos cannot share frames"),
        ({"subtitles": "a.srt"}, "belong to one video"),
        ({"fps": 1, "num_frames": 2}, "num_frames"),
        ({"resume": True}, "nothing to resume"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_settings_are_refused_at_the_call(finished, taught, given, error):
    with pytest.raises((ValueError, ManyVideosError), match=error):
        answer_many(finished, **{"questions": "What?", "model": taught} | given)


def test_a_question_that_cannot_be_asked_fails_alone(finished, taught):
    long = "word " * 40_000
    job = VideoJob(str(finished / "00000.mp4"), ("What?", long))
    asking = Asking(generation=videoxl.Generation(max_new_tokens=2))
    good, bad = answer_video(taught, job, asking)
    assert good.error is None
    assert "tokens, and the model was made for" in bad.error


def test_tables_are_written_whole_and_hold_the_same(finished, taught, tmp_path):
    from pyarrow import parquet

    for name in ("answers.csv", "answers.parquet"):
        list(answer_many(finished / "00000.mp4", "What?", model=taught, output=tmp_path / name, **QUICK))
    kept = rows_of(tmp_path / "answers.csv.jsonl")
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["answer"], json.loads(row["read"])) == (kept[0]["answer"], kept[0]["read"])
    (also,) = parquet.read_table(tmp_path / "answers.parquet").to_pylist()
    assert list(also) == list(row) == list(AnswerRecord.__dataclass_fields__)
    assert (also["answer"], also["warnings"], also["error"]) == (row["answer"], [], None)


def test_memories_are_kept_under_names_that_nobody_else_has(finished, taught, tmp_path):
    folder = tmp_path / "memories"
    folder.mkdir()
    (folder / "00001.vxl").write_bytes(b"another's")
    given = (finished, folder)
    records = list(videoxl.encode_many(*given, model=taught, num_frames=4))
    assert [record.error is None for record in records] == [True, True, False]
    names = [Path(record.memory).name for record in records[:2]]
    assert names[0] == "00000.vxl"
    assert names[1] == f"00001-{records[1].key[:8]}.vxl"
    assert (folder / "00001.vxl").read_bytes() == b"another's"
    index = folder / "memories.jsonl"
    index.write_text(index.read_text().split("\n", 1)[1])  # as after a kill between a memory and its row
    again = list(videoxl.encode_many(*given, model=taught, num_frames=4, resume=True))
    assert [record.memory for record in again] == [record.memory for record in records]
    asked = list(answer_many(str(folder / "0000*-*.vxl"), "What?", model=taught, max_new_tokens=2))
    assert [record.error for record in asked] == [None]
    (refused,) = answer_many(records[0].memory, "What?", model=taught, fps=2)
    assert "is a memory, the video was read when it was made: leave out fps" in refused.error


def run_until(rows: int, output: Path, run: Callable[[], object]) -> int:
    """Kill a process that runs something once its output has so many rows. Returns how many it has then."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # the threads of this process are not in the new one
        run()
        os._exit(0)
    ended = 0
    while not ended and (not output.exists() or output.read_bytes().count(b"\n") < rows):
        time.sleep(0.002)
        ended, _ = os.waitpid(child, os.WNOHANG)
    assert not ended, "the run ended before it was killed"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return output.read_bytes().count(b"\n")


def test_a_killed_run_goes_on_and_has_every_row_once_and_right(world, taught, tmp_path):
    """One kill of six films; ``benchmarks/many_videos.py`` kills a run of 200 ten times."""
    table, output = table_of(world, tmp_path / "list.csv"), tmp_path / "answers.jsonl"
    given = {"model": taught, "output": output, "resume": True, "max_new_tokens": 16}
    assert 4 <= run_until(4, output, lambda: list(answer_many(table, **given))) < 18
    list(answer_many(table, **given))
    rows = rows_of(output)
    assert Counter((row["video"], row["question"]) for row in rows) == dict.fromkeys(world.answers, 1)
    right = sum(row["answer"] == world.answers[row["video"], row["question"]] for row in rows)
    assert right >= len(world.answers) - 2


def test_a_row_that_a_kill_cut_off_is_said_and_done_again(finished, taught, tmp_path):
    path = tmp_path / "answers.jsonl"
    content = (finished / "answers.jsonl").read_bytes()
    path.write_bytes(content[: content.index(b"\n") + 60])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        records = list(answer_many(finished, ["What?", "When?"], model=taught, output=path, resume=True, **QUICK))
    assert "line 2 was cut off while it was written" in str(told[0].message)
    assert len(records) == len(rows_of(path)) == 6
