"""The same work on Ray: rows are those of a run without it, and only what is missing is done."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import videoxl
from tests.conftest import require
from videoxl.errors import ManyVideosError, MissingDependencyError
from videoxl.many import on_ray
from videoxl.many.answering import Asking, answer_many
from videoxl.many.encoding import encode_many
from videoxl.many.on_ray import Actors, VideoActor, require_ray
from videoxl.many.record import AnswerRecord
from videoxl.many.sources import VideoJob

QUICK = {"num_frames": 4}


@pytest.fixture
def films(world, tmp_path):
    """Two films and a file that is none."""
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("00000.mp4", "00001.mp4"):
        (folder / name).write_bytes((world.folder / name).read_bytes())
    (folder / "bad.mp4").write_bytes(b"no film")
    return folder


@pytest.fixture
def cluster(monkeypatch, taught):
    """Actors in this process, which use the model that is there. Counts the videos that each reads."""
    read = []
    encode = taught.encode
    monkeypatch.setattr(taught, "encode", lambda source, **more: (read.append(source.name), encode(source, **more))[1])

    def started(jobs, how, load, file, actors):
        actor = VideoActor(how, lambda: taught, file.kind, file.settings)
        items = [on_ray._item(job, [row for row in file.rows if row.video == job.video]) for job in jobs]
        return ({"told": actor({"item": [item]})["told"][0]} for item in items)

    monkeypatch.setattr(on_ray, "_started", started)
    monkeypatch.setattr("videoxl.many.encoding.require_ray", lambda: None)
    monkeypatch.setattr("videoxl.many.answering.require_ray", lambda: None)
    return read


def test_rows_are_those_of_a_run_without_it(cluster, films, taught, tmp_path):
    given = {"max_new_tokens": 8, **QUICK}
    here = list(answer_many(films, ["What is shown first?", "?!"], model=taught, **given))
    output = tmp_path / "answers.jsonl"
    there = list(answer_many(films, ["What is shown first?", "?!"], model="tiny", ray=True, output=output, **given))
    plain = lambda row: (row.video, row.question, row.answer, row.error, row.key, row.settings)  # noqa: E731
    assert [plain(row) for row in there] == [plain(row) for row in here]
    assert len(output.read_bytes().splitlines()) == 6


def test_only_what_is_missing_or_damaged_is_done_again(cluster, films, tmp_path):
    given = {"model": "tiny", "ray": True, **QUICK}
    first = list(encode_many(films, tmp_path / "out", **given))
    assert [row.error is None for row in first] == [True, True, False]
    assert cluster == ["00000.mp4", "00001.mp4"]
    content = bytearray(Path(first[0].memory).read_bytes())
    content[-100] ^= 1
    Path(first[0].memory).write_bytes(bytes(content))
    index = tmp_path / "out" / "memories.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(line for line in lines if "00001.mp4" not in line))  # killed between file and row
    (films / "new.mp4").write_bytes((films / "00000.mp4").read_bytes() + b"\0")
    cluster.clear()
    again = list(encode_many(films, tmp_path / "out", resume=True, **given))
    assert sorted(cluster) == ["00000.mp4", "new.mp4"]
    assert [row.memory for row in again[:2]] == [row.memory for row in first[:2]]
    lines = [json.loads(line) for line in index.read_bytes().splitlines()]
    assert sorted(Path(line["video"]).name for line in lines) == ["00000.mp4", "00001.mp4", "bad.mp4", "new.mp4"]


def test_other_settings_end_the_run_and_leave_the_rows(cluster, films, tmp_path):
    output = tmp_path / "answers.jsonl"
    given = {"model": "tiny", "ray": True, "output": output, "max_new_tokens": 2}
    list(answer_many(films / "00000.mp4", "What?", num_frames=4, **given))
    before = output.read_bytes()
    with pytest.raises(ManyVideosError, match="other settings: sampling was 'num_frames=4'"):
        list(answer_many(films / "00000.mp4", "What?", num_frames=8, resume=True, **given))
    assert output.read_bytes() == before


def test_an_actor_tells_what_keeps_it_from_working():
    def missing():
        raise videoxl.errors.CheckpointError("no such model")

    actor = VideoActor(Asking(), missing, AnswerRecord, None)
    item = on_ray._item(VideoJob("a.mp4", ("What?",)), [])
    assert json.loads(actor({"item": [item]})["told"][0]) == {"problem": "no such model"}


@pytest.mark.parametrize(
    ("count", "resources", "shares"),
    [
        (None, {"CPU": 16, "GPU": 4}, (4, 1, 1)),
        (8, {"CPU": 16, "GPU": 4}, (8, 1, 0.5)),
        (3, {"CPU": 16, "GPU": 1}, (3, 1, 0.33)),
        (2, {"CPU": 16, "GPU": 4}, (2, 1, 1)),
        (None, {"CPU": 2}, (1, 2, 0)),
        (None, {"CPU": 16}, (4, 4, 0)),
        (8, {"CPU": 2}, (8, 1, 0)),
    ],
)
def test_actors_share_what_there_is(count, resources, shares):
    assert Actors(count).shares(resources) == shares


def test_what_cannot_run_on_it_is_refused(taught, films, monkeypatch):
    with pytest.raises(ValueError, match="give its name or folder"):
        answer_many(films, "What?", model=taught, ray=True)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Actors(0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"needs ray: pip install 'videoxl\[ray\]'"):
        require_ray()


@pytest.mark.slow
def test_an_actor_that_is_killed_takes_nothing_along(world, tmp_path, monkeypatch):
    """``benchmarks/many_on_ray.py`` kills the driver too."""
    monkeypatch.setattr("builtins.print", print)  # which Ray replaces for good; put back afterwards
    require("ray")
    import psutil
    import ray

    killed = []

    def kill_one():
        index = tmp_path / "out" / "memories.jsonl"
        while not (index.exists() and index.read_bytes().count(b"\n")):
            time.sleep(0.01)
        mine = psutil.Process().children(recursive=True)
        victim = next(one for one in mine if any("MapWorker" in part for part in one.cmdline()))
        os.kill(victim.pid, signal.SIGKILL)
        killed.append(victim.pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    try:
        rows = list(encode_many(world.folder, tmp_path / "out", model="tiny", ray=Actors(1)))
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert [row.error for row in rows] == [None] * 6
    assert len({row.video for row in rows}) == 6
    lines = (tmp_path / "out" / "memories.jsonl").read_bytes().splitlines()
    assert len({json.loads(line)["video"] for line in lines}) == len(lines) == 6
