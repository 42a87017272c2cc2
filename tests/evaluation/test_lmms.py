"""The lmms-eval plug-in: questions by video, failures seen, and, where lmms-eval is installed, whole runs of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import require
from tests.evaluation.lmms_task import TASK, write_task
from videoxl.config import Generation, SelectivePrefill
from videoxl.errors import EvaluationError, VideoError
from videoxl.evaluation.lmms import models
from videoxl.evaluation.lmms.asking import Asked, Asker, ReadingSettings
from videoxl.evaluation.lmms.models import FAILED, VideoXLChat, VideoXLSimple
from videoxl.evaluation.results import SampleLog
from videoxl.inference.answers import Answer

SHORT = Generation(max_new_tokens=3)


class CountingEngine:
    """Answers with what it was asked and about what; counts readings. No model behind it."""

    def __init__(self, family: str = "video-xl-2", die_at: str | None = None) -> None:
        self.config = SimpleNamespace(family=family)
        self.read: list[str] = []
        self.die_at = die_at

    def encode(self, video, **settings):
        if "broken" in str(video):
            raise VideoError(f"{video}: is not a video", code="not_a_video")
        self.read.append(video)
        return f"{video}|{settings['system']}|{settings.get('start')}"

    def continue_conversation(self, memory, history, question, generation, decode):
        if question == self.die_at:
            raise KeyboardInterrupt
        text = f"{memory}|{history}|{question}|{generation.max_new_tokens} STOP rest"
        usage = SimpleNamespace(
            **dict.fromkeys(("frames", "visual_tokens", "memory_tokens", "read_tokens", "new_tokens"), 1),
            **{"memory_bytes": 1, "peak_gpu_bytes": None, "seconds": {}, "finish_reason": "stop"},
        )
        return Answer(text, (), usage)  # type: ignore[arg-type]


def questions(count: int = 12, videos: int = 3) -> list[Asked]:
    return [Asked(key=f"t/{n}", question=f"q{n}", video=f"/v/{n % videos}.mp4", generation=SHORT) for n in range(count)]


def texts(records):
    return [record["text"] if record else None for record in records]


def test_every_video_is_read_once_and_answers_come_in_the_order_asked():
    engine = CountingEngine()
    records = Asker(engine, ReadingSettings()).answer(questions())
    assert engine.read == ["/v/0.mp4", "/v/1.mp4", "/v/2.mp4"]
    assert [record["question"] for record in records] == [f"q{n}" for n in range(12)]
    assert sum(record["paid_reading"] for record in records) == 3


def test_order_and_batching_never_change_an_answer():
    asked = questions()
    whole = dict(zip([one.key for one in asked], texts(Asker(CountingEngine(), ReadingSettings()).answer(asked))))
    random.Random(0).shuffle(asked)
    parts = [asked[:5], asked[5:6], asked[6:]]
    for part in parts:
        assert texts(Asker(CountingEngine(), ReadingSettings()).answer(part)) == [whole[one.key] for one in part]


def test_what_differs_in_system_range_or_history_is_not_mixed_up():
    asked = [
        Asked(key="a", question="q", video="/v/0.mp4"),
        Asked(key="b", question="q", video="/v/0.mp4", system="Be brief."),
        Asked(key="c", question="q", video="/v/0.mp4", start=2.0),
        Asked(key="d", question="q", video="/v/0.mp4", history=(("before", "yes"),)),
    ]
    engine = CountingEngine()
    answers = texts(Asker(engine, ReadingSettings()).answer(asked))
    assert len(set(answers)) == 4
    assert len(engine.read) == 3


def test_an_answer_ends_before_its_stop():
    (record,) = Asker(CountingEngine(), ReadingSettings()).answer(
        [Asked(key="a", question="q", video="/v/0.mp4", stop=("STOP",))]
    )
    assert record["text"].endswith("|256")


def test_an_unreadable_video_fails_its_samples_and_nothing_is_asked_without_it():
    asked = [*questions(4, 2), Asked(key="x", question="blind?", video="/v/broken.mp4")]
    asked.append(Asked(key="y", question="blind?", video=None, problem="video path does not exist"))
    said: list[str] = []
    asker = Asker(CountingEngine(die_at="blind?"), ReadingSettings(), say=said.append)
    records = asker.answer(asked)
    assert records[4:] == [None, None]
    assert all(records[:4])
    assert {key: found["error"] for key, found in asker.failed.items()} == {
        "x": "not_a_video: /v/broken.mp4: is not a video",
        "y": "not_found: video path does not exist",
    }
    assert len(said) == 2


def test_an_interrupted_run_resumes_without_repeating_or_losing_samples(tmp_path):
    asked = questions()
    expected = texts(Asker(CountingEngine(), ReadingSettings()).answer(asked))
    with SampleLog(tmp_path / "log.jsonl", {}) as log, pytest.raises(KeyboardInterrupt):
        Asker(CountingEngine(die_at="q4"), ReadingSettings(), log=log).answer(asked)
    with SampleLog(tmp_path / "log.jsonl", {}, resume=True) as log:
        assert len(log) == 5  # all of video 0, and q1 of video 1
        engine = CountingEngine()
        assert texts(Asker(engine, ReadingSettings(), log=log).answer(asked)) == expected
        assert sorted(engine.read) == ["/v/1.mp4", "/v/2.mp4"]
        assert len(log) == 12


def test_a_strategy_that_reads_with_the_question_reads_per_question():
    engine = CountingEngine(family="video-xl-pro")
    Asker(engine, ReadingSettings(prefill=SelectivePrefill())).answer(questions(4, 1))
    assert len(engine.read) == 4
    engine = CountingEngine(family="video-xl-pro")
    Asker(engine, ReadingSettings(prefill=SelectivePrefill(about="cats"))).answer(questions(4, 1))
    assert len(engine.read) == 1


# ------------------------------------------------------------------------------------------ what lmms-eval hands over


def model(kind=VideoXLSimple, documents=({},)):
    """Without its engine: only what turns requests into questions."""
    made = object.__new__(kind)
    made.default_generation = Generation(max_new_tokens=77)
    made.task_dict = {TASK: {"test": list(documents)}}
    return made


def simple(visual, settings=None):
    return SimpleNamespace(args=("Which?", settings or {}, lambda doc: visual, 0, TASK, "test"))


def chat(messages, settings=None):
    return SimpleNamespace(args=("unused", lambda doc: messages, settings or {}, 0, TASK, "test"))


def user(*parts):
    return {"role": "user", "content": [p if isinstance(p, dict) else {"type": "text", "text": p} for p in parts]}


VIDEO = {"type": "video", "url": "/v/0.mp4"}


def test_both_interfaces_make_the_same_question():
    one = model()._asked(simple(["/v/0.mp4"]))
    two = model(VideoXLChat)._asked(chat([user(VIDEO, "Which?")]))
    assert (one.key, one.question, one.video, one.generation) == (two.key, two.question, two.video, two.generation)
    assert one.key == f"{TASK}/test/0"


def test_messages_may_hold_a_system_prompt_earlier_turns_and_a_part_of_a_video():
    part = {**VIDEO, "start_time": 3.0, "end_time": 9.0}
    turns = [
        {"role": "system", "content": "Be brief."},
        user(part, "First?"),
        {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
        user("Second?"),
    ]
    asked = model(VideoXLChat)._asked(chat(turns))
    assert (asked.system, asked.start, asked.end) == ("Be brief.", 3.0, 9.0)
    assert asked.history == (("First?", "A"),)
    assert asked.question == "Second?"


@pytest.mark.parametrize(
    "messages",
    [
        [user("Which?"), {"role": "assistant", "content": "A"}, user(VIDEO, "Which?")],
        [user(VIDEO, VIDEO, "Which?")],
        [user({"type": "audio", "url": "x.wav"}, "Which?")],
        [user(VIDEO, "Which?"), {"role": "assistant", "content": "A"}],
    ],
    ids=["video later", "two videos", "audio", "assistant last"],
)
def test_messages_that_no_reading_holds_are_refused(messages):
    with pytest.raises(EvaluationError):
        model(VideoXLChat)._asked(chat(messages))


def test_a_task_that_ends_the_process_over_a_missing_file_only_fails_the_sample():
    def visual(document):
        sys.exit("video path:/v/absent.mp4 does not exist, please check")

    asked = model()._asked(SimpleNamespace(args=("Which?", {}, visual, 0, TASK, "test")))
    assert asked.video is None
    assert "does not exist" in asked.problem
    assert model()._asked(simple([])).video is None


@pytest.mark.parametrize(
    ("given", "expected", "stop"),
    [
        ({}, {"max_new_tokens": 77}, ()),
        ({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, None, ()),
        ({"max_new_tokens": 16, "until": ["\n\n"]}, None, ("\n\n",)),
        ({"max_new_tokens": 16, "until": "."}, None, (".",)),
        (
            {"max_new_tokens": 16, "temperature": 0.7, "top_p": 0.9},
            {"max_new_tokens": 16, "do_sample": True, "temperature": 0.7, "top_p": 0.9},
            (),
        ),
    ],
)
def test_generation_settings_of_tasks(given, expected, stop):
    assert model()._generation(given) == (Generation(**(expected or {"max_new_tokens": 16})), stop)


def test_model_args(monkeypatch):
    assert models._strategy("'chunked:chunk_size=8;step_size=4'") == "chunked:chunk_size=8,step_size=4"
    assert models._strategy(None) is None
    with pytest.raises(ValueError, match="unknown model_args frames; known: "):
        VideoXLSimple(frames=4)


def test_the_marker_of_a_failure_names_no_option():
    require("lmms_eval")
    extract = import_module("lmms_eval.tasks._task_utils.mcq_extract").extract_mcq_answer
    assert extract(FAILED) == ""


def test_the_entry_point_is_declared_and_leads_somewhere():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["lmms_eval.models"]["videoxl"].split(":")
    assert callable(getattr(import_module(module), name))


# --------------------------------------------------------------------------------------------------- whole runs of it

MODEL_ARGS = "pretrained=tiny,prefill=chunked:chunk_size=2;step_size=1,max_frames=8,log={log}"


def run(folder: Path, name: str, *, processes: int = 1, options: tuple[str, ...] = ()) -> list[dict]:
    """Samples of a run, by number."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        # "--cpu" starts one process whatever is asked for; without a GPU, "--multi_gpu" starts them on the CPU
        launcher += ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        launcher += ["--main_process_port", "0", "-m"]
    command = [*launcher, "lmms_eval", "--model", "videoxl", "--model_args", MODEL_ARGS.format(log=folder / name)]
    command += ["--tasks", TASK, "--include_path", str(folder), "--output_path", str(folder / f"{name}-out")]
    command += ["--log_samples", "--device", "cpu", *options]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=550, check=False)
    written = list((folder / f"{name}-out").rglob("*_samples_*.jsonl"))
    assert written, done.stdout[-2000:] + done.stderr[-4000:]
    samples = [json.loads(line) for line in written[0].read_text().splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_task_runs_end_to_end_offline_and_two_processes_equal_one(tmp_path):
    require("lmms_eval")
    write_task(tmp_path, films=2)
    one = run(tmp_path, "one")
    two = run(tmp_path, "two", processes=2)
    plain = run(tmp_path, "simple", options=("--force_simple",))
    assert len(one) == 6
    for other in (two, plain):
        for a, b in zip(one, other, strict=True):
            assert {**a, "input": None} == {**b, "input": None}
    failed = [sample for sample in one if sample["filtered_resps"] == FAILED]
    assert {sample["toy_score"]["task_type"] for sample in failed} == {"bad"}
    assert len(failed) == 2
    logs = [json.loads(line) for path in (tmp_path / "two").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert len([line for line in logs if "key" in line]) == 4
    assert {line["settings"]["processes"] for line in logs if "settings" in line} == {2}
    failures = [json.loads(path.read_text()) for path in (tmp_path / "two").glob("*.failed.json")]
    assert sorted(key for found in failures for key in found) == [f"{TASK}/test/{s['doc_id']}" for s in failed]
