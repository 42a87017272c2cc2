"""The lmms-eval plug-in: questions by video, failures seen, and, where lmms-eval is installed, whole runs of it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.conftest import require
from tests.evaluation.lmms_task import TASK, write_task
from videoxl.config import Generation, SelectivePrefill
from videoxl.errors import EvaluationError, VideoError
from videoxl.evaluation.lmms import models
from videoxl.evaluation.lmms.answering import Answerer, Question, ReadingSettings
from videoxl.evaluation.lmms.models import FAILED, VideoXLChat, VideoXLSimple
from videoxl.evaluation.lmms.outcomes import check_outcomes
from videoxl.evaluation.lmms.published import Published
from videoxl.evaluation.lmms.running import Run, run_lmms
from videoxl.evaluation.log import SampleLog
from videoxl.evaluation.subtitles import SubtitleFile, subtitle_file
from videoxl.inference.answers import Answer
from videoxl.model.families import FAMILIES

SHORT = Generation(max_new_tokens=3)


class Told(str):
    """A memory: what it was made from."""

    usage: SimpleNamespace

    def __new__(cls, text: str, *, subtitles: int | None):
        made = super().__new__(cls, text)
        made.usage = SimpleNamespace(subtitles=subtitles)
        return made


class CountingEngine:
    """Answers with what it was asked and about what; counts readings. No model behind it."""

    def __init__(self, family: str = "video-xl-2", die_at: str | None = None) -> None:
        time_format = "Time {:.1f}s:" if family != "video-xl" else ""
        self.config = SimpleNamespace(family=family, traits=FAMILIES[family], time_format=time_format)
        self.read: list[str] = []
        self.die_at = die_at

    def encode(self, video, **settings):
        if "broken" in str(video):
            raise VideoError(f"{video}: is not a video", code="not_a_video")
        self.read.append(video)
        cues = settings["subtitles"]
        return Told(f"{video}|{settings['system']}|{settings.get('start')}", subtitles=cues and len(cues))

    def continue_conversation(self, memory, history, question, generation, decode):
        if question == self.die_at:
            raise KeyboardInterrupt
        text = f"{memory}|{history}|{question}|{generation.max_new_tokens} STOP rest"
        usage = SimpleNamespace(
            **dict.fromkeys(("frames", "visual_tokens", "memory_tokens", "read_tokens", "new_tokens"), 1),
            **{"memory_bytes": 1, "peak_gpu_bytes": None, "seconds": {}, "finish_reason": "stop", "together": 1},
        )
        return Answer(text, (), usage)  # type: ignore[arg-type]


def questions(count: int = 12, videos: int = 3) -> list[Question]:
    return [
        Question(key=f"t/{n}", question=f"q{n}", video=f"/v/{n % videos}.mp4", generation=SHORT) for n in range(count)
    ]


def texts(records):
    return [record["text"] if record else None for record in records]


def test_every_video_is_read_once_and_answers_come_in_the_order_asked():
    engine = CountingEngine()
    records = Answerer(engine, ReadingSettings()).answer(questions())
    assert engine.read == ["/v/0.mp4", "/v/1.mp4", "/v/2.mp4"]
    assert [record["question"] for record in records] == [f"q{n}" for n in range(12)]
    assert sum(record["paid_reading"] for record in records) == 3


def test_order_and_batching_never_change_an_answer():
    asked = questions()
    whole = dict(zip([one.key for one in asked], texts(Answerer(CountingEngine(), ReadingSettings()).answer(asked))))
    random.Random(0).shuffle(asked)
    parts = [asked[:5], asked[5:6], asked[6:]]
    for part in parts:
        assert texts(Answerer(CountingEngine(), ReadingSettings()).answer(part)) == [whole[one.key] for one in part]


def test_what_differs_in_system_range_or_history_is_not_mixed_up():
    asked = [
        Question(key="a", question="q", video="/v/0.mp4"),
        Question(key="b", question="q", video="/v/0.mp4", system="Be brief."),
        Question(key="c", question="q", video="/v/0.mp4", start=2.0),
        Question(key="d", question="q", video="/v/0.mp4", history=(("before", "yes"),)),
    ]
    engine = CountingEngine()
    answers = texts(Answerer(engine, ReadingSettings()).answer(asked))
    assert len(set(answers)) == 4
    assert len(engine.read) == 3


def test_an_answer_ends_before_its_stop():
    (record,) = Answerer(CountingEngine(), ReadingSettings()).answer(
        [Question(key="a", question="q", video="/v/0.mp4", stop=("STOP",))]
    )
    assert record["text"].endswith("|256")


def test_an_unreadable_video_fails_its_samples_and_nothing_is_asked_without_it():
    asked = [*questions(4, 2), Question(key="x", question="blind?", video="/v/broken.mp4")]
    asked.append(Question(key="y", question="blind?", video=None, problem="video path does not exist"))
    warned: list[str] = []
    answerer = Answerer(CountingEngine(die_at="blind?"), ReadingSettings(), warn=warned.append)
    records = answerer.answer(asked)
    assert records[4:] == [None, None]
    assert all(records[:4])
    assert {key: found["error"] for key, found in answerer.failed.items()} == {
        "x": "not_a_video: /v/broken.mp4: is not a video",
        "y": "not_found: video path does not exist",
    }
    assert len(warned) == 2


def test_an_interrupted_run_resumes_without_repeating_or_losing_samples(tmp_path):
    asked = questions()
    expected = texts(Answerer(CountingEngine(), ReadingSettings()).answer(asked))
    with SampleLog(tmp_path / "log.jsonl", {}) as log, pytest.raises(KeyboardInterrupt):
        Answerer(CountingEngine(die_at="q4"), ReadingSettings(), log=log).answer(asked)
    with SampleLog(tmp_path / "log.jsonl", {}, resume=True) as log:
        assert len(log) == 5  # all of video 0, and q1 of video 1
        engine = CountingEngine()
        assert texts(Answerer(engine, ReadingSettings(), log=log).answer(asked)) == expected
        assert sorted(engine.read) == ["/v/1.mp4", "/v/2.mp4"]
        assert len(log) == 12


def test_a_strategy_that_reads_with_the_question_reads_per_question():
    engine = CountingEngine(family="video-xl-pro")
    Answerer(engine, ReadingSettings(prefill=SelectivePrefill())).answer(questions(4, 1))
    assert len(engine.read) == 4
    engine = CountingEngine(family="video-xl-pro")
    Answerer(engine, ReadingSettings(prefill=SelectivePrefill(about="cats"))).answer(questions(4, 1))
    assert len(engine.read) == 1


def test_subtitles_are_read_where_a_video_has_them_and_counted(tmp_path):
    (tmp_path / "0.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    asked = [replace(one, subtitles=subtitle_file(str(tmp_path), one.video, {})) for one in questions(4, 2)]
    records = Answerer(CountingEngine(), ReadingSettings(subtitles=str(tmp_path))).answer(asked)
    assert [record["subtitles"] for record in records] == [1, None, 1, None]
    assert "subtitles" not in Answerer(CountingEngine(), ReadingSettings()).answer(questions(1, 1))[0]
    with pytest.raises(ValueError, match="is neither"):
        Answerer(CountingEngine(), ReadingSettings(subtitles=str(tmp_path / "absent")))
    with pytest.raises(ValueError, match="no timestamps to put subtitles behind"):
        Answerer(CountingEngine("video-xl"), ReadingSettings(prefill="beacon:ratio=8", subtitles=str(tmp_path)))


def test_a_bad_subtitle_file_fails_the_samples_of_its_video(tmp_path):
    (tmp_path / "1.srt").write_text("nothing")
    asked = [replace(one, subtitles=subtitle_file(str(tmp_path), one.video, {})) for one in questions(4, 2)]
    answerer = Answerer(CountingEngine(), ReadingSettings(subtitles=str(tmp_path)))
    assert [bool(record) for record in answerer.answer(asked)] == [True, False, True, False]
    assert {record["error"].split(":")[0] for record in answerer.failed.values()} == {"bad_subtitles"}


# ------------------------------------------------------------------------------------------ what lmms-eval hands over


def model(kind=VideoXLSimple, documents=({},), subtitles=None):
    """Without its engine: only what turns requests into questions."""
    made = object.__new__(kind)
    made.default_generation = Generation(max_new_tokens=77)
    made._answerer = SimpleNamespace(reading=ReadingSettings(subtitles=subtitles))
    made._published = None
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
    one = model()._question(simple(["/v/0.mp4"]))
    two = model(VideoXLChat)._question(chat([user(VIDEO, "Which?")]))
    assert (one.key, one.question, one.video, one.generation) == (two.key, two.question, two.video, two.generation)
    assert one.key == f"{TASK}/test/0"


def test_both_interfaces_find_the_same_subtitles(tmp_path):
    (tmp_path / "a_en.json").write_text("[]")
    how = {"documents": ({"subtitle_path": "a_en.json", "starting_timestamp_for_subtitles": 7},)}
    how["subtitles"] = f"{tmp_path}/{{subtitle_path}}"
    one = model(**how)._question(simple(["/v/0.mp4"]))
    two = model(VideoXLChat, **how)._question(chat([user(VIDEO, "Which?")]))
    assert one.subtitles == two.subtitles == SubtitleFile(str(tmp_path / "a_en.json"), 7.0)


def test_messages_may_hold_a_system_prompt_earlier_turns_and_a_part_of_a_video():
    part = {**VIDEO, "start_time": 3.0, "end_time": 9.0}
    turns = [
        {"role": "system", "content": "Be brief."},
        user(part, "First?"),
        {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
        user("Second?"),
    ]
    asked = model(VideoXLChat)._question(chat(turns))
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
        model(VideoXLChat)._question(chat(messages))


def test_a_task_that_ends_the_process_over_a_missing_file_only_fails_the_sample():
    def visual(document):
        sys.exit("video path:/v/absent.mp4 does not exist, please check")

    asked = model()._question(SimpleNamespace(args=("Which?", {}, visual, 0, TASK, "test")))
    assert asked.video is None
    assert "does not exist" in asked.problem
    assert model()._question(simple([])).video is None


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


def test_questions_about_one_video_are_asked_together_where_that_is_wanted():
    class Together(CountingEngine):
        calls: ClassVar[list[list[str]]] = []

        def ask(self, memory, questions, *, decode, generation):
            self.calls.append(list(questions))
            return [self.continue_conversation(memory, [], one, generation, decode) for one in questions]

    asked = [*questions(6, 2), Question(key="h", question="q", video="/v/0.mp4", history=(("before", "yes"),))]
    engine = Together()
    records = Answerer(engine, ReadingSettings(together=True)).answer(asked)
    assert engine.calls == [["q0", "q2", "q4"], ["q1", "q3", "q5"]]
    assert texts(records) == texts(Answerer(CountingEngine(), ReadingSettings()).answer(asked))
    assert sum(record["paid_reading"] for record in records) == 2


# ------------------------------------------------------------------------------------------- the released protocol

MLVU = {
    "video_name": "a.mp4",
    "question": "Which?\n(A) red\n(B) blue",
    "answer": "B",
    "task_type": "count",
}


def test_a_protocol_changes_words_length_and_end_of_a_question():
    given = model(documents=[MLVU])._question(simple(["/v/a.mp4"], {"max_new_tokens": 5, "until": ["x"]}))
    asked = Published.named("mlvu/released").question(given, MLVU, 0)
    assert asked.question == "\nWhich?\n(A) red\n(B) blue\nOnly give the best option.\n\nBest option: ("
    assert (asked.generation.max_new_tokens, asked.stop, asked.key) == (16, (), given.key)
    assert asked.document["item"]["answer"] == "B"
    assert json.loads(json.dumps(asked.document))["item"]["options"] == ["red", "blue"]


def test_answers_to_a_protocol_are_scored_by_its_rule():
    published = Published.named("mlvu/released")
    asked = [Question(key=f"t/{n}", question="", video="/v/a.mp4") for n in range(3)]
    asked = [published.question(one, MLVU, n) for n, one in enumerate(asked)]
    records = [{**one.known, "text": text} for one, text in zip(asked, ["B) blue", "It is (B)", "(A)"])]
    failed = {"t/x": {**published.question(Question(key="t/x", question="", video=None), MLVU, 3).known}}
    scores = published.scores(json.loads(json.dumps(records)), failed)
    assert (scores["samples"], scores["unanswered"], scores["accuracy"]) == (4, 1, 0.5)
    assert scores["by"]["task_type"]["by"]["count"]["samples"] == 4


def test_released_selections_belong_to_a_protocol(tmp_path):
    config = {"selected_topk": 1, "selected_chunk_size": 4, "compression": 4}
    (tmp_path / "mlvu.json").write_text(
        json.dumps({"count": {"config": config, "selected_unit_indices": {"a.mp4_Which?": [3]}}})
    )
    published = Published.named("mlvu/released", str(tmp_path))
    asked = published.question(Question(key="t/0", question="", video="/v/a.mp4"), MLVU, 0)
    assert asked.prefill is None
    assert asked.decode.relevance.units == (3,)
    other = published.question(Question(key="t/1", question="", video="/v/a.mp4"), {**MLVU, "video_name": "b.mp4"}, 1)
    assert (str(other.prefill), str(other.decode)) == ("full", "dense")
    assert published.selections.counts == {"named": 1, "not_named": 1}
    for bad in [(None, "x"), ("mlvu/mine", None), ("other/lmms", None), ("egoschema/lmms", "x"), ("mlvu", "absent")]:
        with pytest.raises(ValueError, match=r"protocol|--prompts|none were released|cannot be read"):
            Published.named(*bad)


@pytest.mark.parametrize(
    ("metrics", "complaint"),
    [
        ({"acc": True}, None),
        ({"x": {"pred": 2, "ground_truth": "3"}}, None),
        ({"x": {"parsed_prediction": "A", "answer": "A"}}, None),
        (
            {"x": {"a.mp4>>>who": "12 to 15"}},
            r"task toy_world does not say which answers are right \(its metrics are x\)",
        ),
        ({"submission": {"a": 1}}, "does not say which answers are right"),
        (OSError("no judge"), r"task toy_world cannot judge an answer \(OSError: no judge\)"),
    ],
)
def test_a_task_that_does_not_say_what_is_right_is_refused_before_the_run(metrics, complaint):
    class Task:
        def process_results(self, document, results):
            if isinstance(metrics, Exception):
                raise metrics
            return metrics

        def doc_to_visual(self, document):
            return ["/v/0.mp4"]

    request = SimpleNamespace(args=("Which?", {}, Task().doc_to_visual, 0, TASK, "test"))
    documents = {TASK: {"test": [{}]}}
    if complaint is None:
        check_outcomes([request, request], documents)
    else:
        with pytest.raises(EvaluationError, match=complaint):
            check_outcomes([request], documents)


def test_the_marker_of_a_failure_names_no_option():
    require("lmms_eval")
    extract = import_module("lmms_eval.tasks._task_utils.mcq_extract").extract_mcq_answer
    assert extract(FAILED) == ""


def test_the_entry_point_is_declared_and_leads_somewhere():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["lmms_eval.models"]["videoxl"].split(":")
    assert callable(getattr(import_module(module), name))


# --------------------------------------------------------------------------------------------------- whole runs of it

ARGUMENTS = {"pretrained": "tiny", "device": "cpu", "prefill": "chunked:chunk_size=2,step_size=1", "max_frames": 8}
FILMS, QUESTIONS, UNREADABLE = 4, 2, 2


def described(folder: Path, name: str, **how) -> Run:
    """A run of the toy task, as ``videoxl eval lmms`` makes it."""
    arguments = {**ARGUMENTS, "subtitles": f"{folder}/{{kind}}.srt"}
    return Run(task=TASK, model_args=arguments, folder=folder / name, include_path=str(folder), **how)


def whole(folder: Path, name: str, **how) -> dict[str, Any]:
    return run_lmms(described(folder, name, **how))


def samples(folder: Path, name: str) -> list[dict]:
    """What lmms-eval wrote of every sample, by number; without the question, which each interface logs its way."""
    (written,) = (folder / name / "lmms-eval").rglob(f"*_samples_{TASK}.jsonl")
    found = [json.loads(line) for line in written.read_text().splitlines()]
    return [{**sample, "input": None} for sample in sorted(found, key=lambda sample: sample["doc_id"])]


def keys(folder: Path, name: str) -> list[str]:
    """Of the answers in the logs of all processes, in the order they were given."""
    lines = [line for path in (folder / name / "logs").glob("*.jsonl") for line in path.read_text().splitlines(True)]
    return [json.loads(line)["key"] for line in lines if line.endswith("\n") and '"key"' in line]


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder of the toy task, offline, and the result of a run with messages in one process."""
    require("lmms_eval")
    folder = write_task(tmp_path_factory.mktemp("lmms"), films=FILMS, questions=QUESTIONS)
    kind = json.loads((folder / "data.json").read_text())[0]["kind"]
    (folder / f"{kind}.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nLook!\n")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        yield folder, whole(folder, "one")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_task_runs_offline_and_an_unreadable_video_fails_its_samples_visibly(toy):
    folder, result = toy
    scores = result["scores"]
    assert scores["samples"] == FILMS * QUESTIONS + UNREADABLE
    assert sorted(error.split(":")[0] for error in scores["failed"].values()) == ["not_a_video", "not_found"]
    found = samples(folder, "one")
    lost = [sample for sample in found if sample["filtered_resps"] == FAILED]
    assert sorted(scores["failed"]) == [f"{TASK}/test/{sample['doc_id']}" for sample in lost]
    assert {sample["toy_score"]["task_type"] for sample in lost} == {"bad"}
    right = sum(sample["toy_score"]["score"] for sample in found)
    assert scores["accuracy"] == pytest.approx(right / len(found))
    assert result["lmms_eval"]["toy_score,none"] == pytest.approx(right / len(found))
    assert set(keys(folder, "one")).isdisjoint(scores["failed"])
    assert 0 < scores["with_subtitles"] < FILMS * QUESTIONS
    assert result["run"]["versions"]["lmms_eval"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one(toy):
    folder, one = toy
    two = whole(folder, "two", processes=2)
    assert samples(folder, "two") == samples(folder, "one")
    assert two["run"]["processes"] == 2
    assert len(list((folder / "two" / "logs").glob("*.jsonl"))) == 2
    assert sorted(keys(folder, "two")) == sorted(keys(folder, "one"))
    assert {**two["scores"], "costs": None} == {**one["scores"], "costs": None}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_simple_interface_killed_and_resumed_equals_the_whole_run_with_messages(toy):
    """kill -9 in the middle: what was answered is not asked again, the rest is, the samples are the same."""
    folder, _ = toy
    process = subprocess.Popen(described(folder, "killed", interface="simple").command())
    try:
        while process.poll() is None and not keys(folder, "killed"):
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    before = keys(folder, "killed")
    assert 0 < len(before) < FILMS * QUESTIONS
    whole(folder, "killed", interface="simple", resume=True)
    assert samples(folder, "killed") == samples(folder, "one")
    after = keys(folder, "killed")
    assert after[: len(before)] == before
    assert sorted(after) == sorted(keys(folder, "one"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_task_without_outcomes_is_refused_before_its_first_answer(tmp_path, monkeypatch, capfd):
    require("lmms_eval")
    folder = write_task(tmp_path, films=1, questions=1, bad=False)
    functions = (folder / "toy.py").read_text()
    (folder / "toy.py").write_text(functions.replace('"score": score, ', "").replace("pred_answer", "said"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    with pytest.raises(EvaluationError, match="no scores"):
        run_lmms(Run(task=TASK, model_args=ARGUMENTS, folder=folder / "run", include_path=str(folder)))
    assert "does not say which answers are right" in capfd.readouterr().err
    assert keys(folder, "run") == []
