"""Whole runs: one process and several, killed and resumed, with memories kept and with released selections."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from tests.conftest import require
from tests.evaluation.benchmarks import files
from tests.evaluation.benchmarks.files import written
from videoxl.errors import EvaluationError
from videoxl.evaluation.benchmarks.processes import load_own, run_processes
from videoxl.evaluation.benchmarks.running import BenchmarkRun, Share, run_benchmark
from videoxl.evaluation.benchmarks.selections import Selections
from videoxl.evaluation.benchmarks.showing import text
from videoxl.evaluation.lmms.answering import Answerer
from videoxl.text import tell_text

VIDEOS = ("a", "b", "c")
PER_VIDEO = 2


@pytest.fixture(scope="module")
def data(clip, tmp_path_factory):
    """Annotations of MLVU's form about three videos and one that is missing, and the folder of the videos."""
    folder = tmp_path_factory.mktemp("mlvu")
    for number, name in enumerate(VIDEOS):
        (folder / "videos" / f"{number}_kind").mkdir(parents=True)
        copied = folder / "videos" / f"{number}_kind" / f"{name}.mp4"
        copied.write_bytes(clip.read_bytes() + bytes([number]))  # other content, so another memory
    records = [
        {**files.MLVU[0], "video": f"{name}.mp4", "question": f"Which, {n}?", "question_type": "count" if n else "ego"}
        for n in range(PER_VIDEO)
        for name in (*VIDEOS, "absent")
    ]
    return written(folder, records), str(folder / "videos")


def described(data, folder, **how) -> BenchmarkRun:
    sampling = {"fps": 1.0, "max_frames": 8}
    told: list[str] = []
    given = {"annotations": data[0], "videos": data[1], "folder": folder, "sampling": sampling, "warn": told.append}
    return BenchmarkRun(name="mlvu", max_new_tokens=3, **given, **how)


def samples(folder):
    return [
        {name: value for name, value in json.loads(line).items() if name != "cost"}
        for line in (folder / "samples.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def whole(tiny, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_benchmark(tiny, described(data, folder))


def test_a_run(whole):
    folder, result = whole
    scores = result["scores"]
    assert (scores["samples"], scores["videos"], scores["unanswered"]) == (8, 4, 2)
    assert len(result["failed"]) == 2
    assert all("holds no file absent.mp4" in why for why in result["failed"].values())
    assert (result["run"]["prompts"], result["run"]["times_in_seconds"]) == ("released", True)
    assert scores["costs"]["mean_frames"] == 8
    assert text(result).startswith("mlvu, ")
    assert json.loads((folder / "result.json").read_text())["scores"]["published"]["average"] == "micro"
    assert [one["text"] is None for one in samples(folder)].count(True) == 2


def test_results_as_parquet(whole):
    require("pyarrow")
    import pyarrow.parquet as parquet

    rows = parquet.read_table(whole[0] / "samples.parquet").to_pylist()
    assert [row["text"] for row in rows] == [one["text"] for one in samples(whole[0])]
    assert rows[0]["categories.task_type"] == "ego"
    assert rows[0]["cost.frames"] == 8


def test_processes_share_the_videos_and_the_last_one_makes_the_result(tiny, data, whole, tmp_path):
    run = described(data, tmp_path)
    assert run_benchmark(tiny, replace(run, share=Share(1, 3))) is None
    assert run_benchmark(tiny, replace(run, share=Share(0, 3))) is None
    result = run_benchmark(tiny, replace(run, share=Share(2, 3)))
    assert samples(tmp_path) == samples(whole[0])
    assert {**result["scores"], "costs": None} == {**whole[1]["scores"], "costs": None}
    assert len(list((tmp_path / "answers").glob("part-*.jsonl"))) == 3


def test_an_interrupted_process_goes_on_even_with_another_number_of_them(tiny, data, whole, tmp_path, monkeypatch):
    ask, asked = Answerer._ask, []

    def dies(self, memory, batch):
        if len(asked) == 1:
            raise KeyboardInterrupt
        asked.append(batch)
        return ask(self, memory, batch)

    monkeypatch.setattr(Answerer, "_ask", dies)
    run = described(data, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(tiny, run)
    log = tmp_path / "answers" / "part-000-of-001.jsonl"
    before = log.read_bytes()
    log.write_bytes(before + b'{"key": "cut')
    monkeypatch.setattr(Answerer, "_ask", lambda self, memory, batch: asked.append(batch) or ask(self, memory, batch))
    with pytest.raises(EvaluationError, match="resume it"):
        run_benchmark(tiny, run)
    again = replace(run, resume=True)
    with pytest.warns(UserWarning, match="was cut off"):
        assert run_benchmark(tiny, replace(again, share=Share(0, 2))) is None
    with pytest.warns(UserWarning, match="was cut off"):
        run_benchmark(tiny, replace(again, share=Share(1, 2)))
    assert samples(tmp_path) == samples(whole[0])
    keys = [one.key for batch in asked for one in batch]
    assert sorted(keys) == sorted(set(keys))  # nothing was asked twice


def test_logs_of_other_settings_are_refused(tiny, data, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    run = described(data, tmp_path / "run", resume=True)
    with pytest.raises(EvaluationError, match="other settings: prompts was 'released', is now 'lmms'"):
        run_benchmark(tiny, replace(run, prompts="lmms"))


def test_memories_are_shared_by_runs_and_benchmarks(tiny, data, whole, tmp_path, monkeypatch):
    read, encode = [], tiny.encode
    monkeypatch.setattr(type(tiny), "encode", lambda self, video, **how: read.append(video) or encode(video, **how))
    store = str(tmp_path / "memories")
    run_benchmark(tiny, described(data, tmp_path / "one", memories=store))
    assert len(read) == len(VIDEOS)
    result = run_benchmark(tiny, described(data, tmp_path / "two", memories=store, prompts="lmms"))
    assert len(read) == len(VIDEOS)  # another question, the same videos
    assert result["scores"]["costs"]["reading_seconds_per_video"] is None
    assert samples(tmp_path / "one") == samples(whole[0])
    assert len(list((tmp_path / "memories").glob("*.vxl"))) == len(VIDEOS)
    other = described(data, tmp_path / "three", memories=store)
    run_benchmark(tiny, replace(other, sampling={"max_frames": 4}))
    assert len(read) == 2 * len(VIDEOS)
    damaged = next((tmp_path / "memories").glob("*.vxl"))
    damaged.write_bytes(b"no memory")
    told: list[str] = []
    runs = described(data, tmp_path / "four", memories=store)
    run_benchmark(tiny, replace(runs, warn=told.append))
    run_benchmark(tiny, replace(runs, folder=tmp_path / "five", sampling={"max_frames": 4}, warn=told.append))
    assert len(read) == 2 * len(VIDEOS) + 1
    assert len([line for line in told if "cannot be used, the video is read again" in line]) == 1
    assert samples(tmp_path / "four") == samples(whole[0])


def test_released_selections(tiny, data, tmp_path):
    named = {"config": {"selected_topk": 1, "selected_chunk_size": 1, "compression": 4}}
    named["selected_unit_indices"] = {"a.mp4_Which, 0?": [0], "b.mp4_Which, 0?": []}
    file = tmp_path / "mlvu.json"
    file.write_text(json.dumps({"ego": named, "count": None}))
    run = described(data, tmp_path / "run", selections=str(file), prefill="chunked:chunk_size=2,step_size=1")
    result = run_benchmark(tiny, run)
    assert result["selections"] == {"named": 2, "not_named": 6}
    assert result["run"]["decode"] == "released selections"
    assert "2 questions are named" in text(result)
    selections = Selections.read(file)
    prefill, decode = selections.of("a.mp4_Which, 0?")
    assert prefill is None
    assert decode.relevance.units == (0,)
    assert [str(one) for one in selections.of("c.mp4_Which, 0?")] == ["full", "dense"]
    with pytest.raises(ValueError, match="none were released for egoschema"):
        replace(run, name="egoschema").check()


def test_answers_may_be_the_likeliest_letter(tiny, data, tmp_path):
    result = run_benchmark(tiny, described(data, tmp_path, answer_by="choices"))
    texts = {one["text"] for one in samples(tmp_path)}
    assert texts <= {"A", "B", "C", "D", None}
    assert (result["run"]["answer_by"], result["scores"]["nothing_read"]) == ("choices", 0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "mlvu2"}, "the benchmark must be one of mlvu, "),
        ({"prompts": "mine"}, "--prompts of mlvu must be released or lmms, got 'mine'"),
        ({"answer_by": "luck"}, "--answer-by must be text or choices"),
        ({"name": "mlvu-generation", "answer_by": "choices"}, "has questions without options"),
        ({"limit": 0}, "--limit must be at least 1"),
        ({"videos": "absent"}, "absent is no folder"),
    ],
)
def test_what_cannot_run_is_refused_before_a_model_is_loaded(data, tmp_path, change, complaint):
    with pytest.raises((ValueError, EvaluationError), match=complaint):
        replace(described(data, tmp_path), **change).check()


def test_shares_come_from_the_environment(monkeypatch):
    assert Share.of_environment() == Share()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Share.of_environment() == Share(2, 4)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ValueError, match="rank must be 0 to 3"):
        Share.of_environment()
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ValueError, match="whole numbers"):
        Share.of_environment()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_real_processes_equal_one(data, tmp_path):
    given = {"name": "tiny", "device": "cpu"}
    run = replace(described(data, tmp_path / "one"), warn=tell_text)
    run_benchmark(load_own(given), run)
    result = run_processes(given, replace(run, folder=tmp_path / "two"), 2)
    assert samples(tmp_path / "two") == samples(tmp_path / "one")
    assert result["run"]["processes"] == 2
    with pytest.raises(EvaluationError, match=r"processes 0 \(status 1\) of 1 ended early; the answers so far"):
        run_processes({"name": "absent"}, replace(run, folder=tmp_path / "three"), 1)
