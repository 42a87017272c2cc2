"""VNBench: its annotations, its four tries, and its scoring by hand."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest

from videoxl.errors import EvaluationError
from videoxl.evaluation.log import SampleLog
from videoxl.evaluation.prompts import VNBENCH
from videoxl.evaluation.samples import log_settings
from videoxl.evaluation.vnbench import (
    answer_settings,
    evaluate,
    first_questions,
    read_tries,
    released_letter,
    score,
    whole_seconds,
)
from videoxl.video import open_video

OPTIONS = ["a cat", "a dog", "a cow", "a hen"]


def records(kind, video, *, tries=4, gt="a cow"):
    orders = itertools.islice(itertools.permutations(OPTIONS), 0, None, 5)
    base = {"video": f"VNBench/{video}", "question": "What is inserted?", "gt": gt, "type": kind, "length": 10}
    return [{**base, "options": list(o), "try": n} for n, o in zip(range(tries), orders)]


def tries_of(tmp_path, *lists):
    path = tmp_path / "VNBench-main-4try.json"
    path.write_text(json.dumps([record for found in lists for record in found]), encoding="utf-8")
    return read_tries(path)


def right(one):
    return f"({'ABCD'[one.answer]}) {one.options[one.answer]}"


def test_annotations(tmp_path):
    tries = tries_of(tmp_path, records("ret_edit", "a.mp4"), records("cnt_edit1", "b.mp4", gt="a cat"))
    assert len({one.key for one in tries}) == 8
    assert len({one.question_key for one in tries}) == 2
    assert [one.options[one.answer] for one in tries] == ["a cow"] * 4 + ["a cat"] * 4
    assert [one.task for one in tries] == ["retrieval"] * 4 + ["counting"] * 4
    assert first_questions(tries, 1) == tries[:4]
    assert first_questions(tries, None) == tries


def test_single_tries_are_made_four(tmp_path):
    tries = tries_of(tmp_path, records("ret_edit", "a.mp4", tries=1), records("ord_edit", "b.mp4", tries=1))
    assert len(tries) == 8
    assert sorted(one.answer for one in tries[:4]) == [0, 1, 2, 3]
    assert all(one.options[one.answer] == "a cow" and sorted(one.options) == sorted(OPTIONS) for one in tries)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"gt": "a fox"}, "record 0: gt 'a fox' must be one of the options"),
        ({"options": ["a cow", "a cow"]}, "once"),
        ({"type": "new_task"}, "does not begin with ret, ord, cnt"),
        ({"question": None}, "needs video, question and type"),
        ({"options": "ABCD"}, "a list of options"),
    ],
)
def test_bad_records_are_named(tmp_path, change, complaint):
    with pytest.raises(EvaluationError, match=complaint):
        tries_of(tmp_path, [records("ret_edit", "a.mp4")[0] | change])


def test_a_question_without_four_tries_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="1 questions do not have 4 tries"):
        tries_of(tmp_path, records("ret_edit", "a.mp4"), records("ret_edit", "b.mp4", tries=3))
    (tmp_path / "x").write_text('{"a": 1}')
    with pytest.raises(EvaluationError, match="must hold a list"):
        read_tries(tmp_path / "x")
    with pytest.raises(EvaluationError, match="cannot be read: No such file"):
        read_tries(tmp_path / "y")


def test_scores_by_hand(tmp_path):
    """ret_edit 1 of 2, ret_insert1 1 of 1: retrieval 3/4. ordering 0 of 1, counting 1 of 1: overall 7/12, micro 3/5."""
    tries = tries_of(
        tmp_path,
        records("ret_edit", "a.mp4"),
        records("ret_edit", "b.mp4"),
        records("ret_insert1", "c.mp4"),
        records("ord_edit", "d.mp4"),
        records("cnt_edit2", "e.mp4"),
    )
    texts = {one.key: right(one) for one in tries}
    texts[tries[7].key] = "I do not know"  # the last try of b
    texts |= {one.key: "A" for one in tries if one.type == "ord_edit"}
    found = score(tries, texts)
    assert {name: value["accuracy"] for name, value in found["types"].items()} == {
        "ret_edit": 0.5,
        "ret_insert1": 1.0,
        "ord_edit": 0.0,
        "cnt_edit2": 1.0,
    }
    assert found["tasks"] == {"retrieval": 0.75, "ordering": 0.0, "counting": 1.0}
    assert found["overall"] == pytest.approx(7 / 12)
    assert found["micro"] == 3 / 5
    answered_a = sum(one.answer == 0 for one in tries if one.type == "ord_edit")
    assert found["single_try"] == (15 + answered_a) / 20
    assert found["chance"] == 1 / 256
    assert (found["no_option_chosen"], found["unanswered"], found["questions"]) == (1, 0, 5)


def test_a_constant_letter_is_never_right(tmp_path):
    tries = tries_of(tmp_path, records("ret_edit", "a.mp4", tries=1))
    assert score(tries, {one.key: "B" for one in tries})["overall"] == 0


def test_missing_answers_are_wrong(tmp_path):
    tries = tries_of(tmp_path, records("ret_edit", "a.mp4"))
    found = score(tries, {one.key: right(one) for one in tries[:3]})
    assert (found["overall"], found["unanswered"], found["single_try"]) == (0, 1, 0.75)
    assert found["tasks"] == {"retrieval": 0.0, "ordering": None, "counting": None}
    assert score(tries, {one.key: right(one) for one in tries})["overall"] == 1


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(B) a dog", "B"),
        ("C", "C"),
        ("C. a cow", "C"),
        ("The answer is (D).", "D"),
        ("Answer: B", "A"),  # its capital A counts
        ("(None, Because)", "B"),
        ("a dog", "a dog"),
        ("", ""),
        ("I cannot tell. A", "I cannot tell"),
    ],
)
def test_the_released_rule_as_it_is(text, letter):
    assert released_letter(text) == letter


def test_prompts_as_released():
    told = VNBENCH["video-xl"].text("What is inserted?", OPTIONS)
    assert told == "Question: What is inserted?\nOptions:\n(A) a cat\n(B) a dog\n(C) a cow\n(D) a hen\n"
    told = VNBENCH["vnbench"].text("What is inserted?", OPTIONS)
    assert told.startswith("What is inserted?\nA. a cat\nB. a dog\n")
    assert told.endswith("D. a hen\nAnswer with the option's letter from the given choices directly.")


def test_one_frame_at_each_whole_second(clip):
    with open_video(clip) as source:  # ten seconds, 5 frames a second
        assert source.select(whole_seconds(source)).indices_F.tolist() == list(range(0, 50, 5))


def test_a_run_in_any_order_gives_the_same_answers(tiny, clip, tmp_path):
    shutil.copy(clip, tmp_path / "a.mp4")
    shutil.copy(clip, tmp_path / "b.mp4")
    tries = tries_of(
        tmp_path, records("ret_edit", "a.mp4"), records("cnt_edit1", "b.mp4"), records("ord_edit", "c.mp4")
    )
    how = answer_settings(max_new_tokens=3)
    settings = log_settings("vnbench", tmp_path / "VNBench-main-4try.json", tiny, how, prompt="video-xl")
    found = []
    for name, order in (("forward", tries), ("backward", tries[::-1])):
        with SampleLog(tmp_path / name, settings) as log:
            found.append(evaluate(tiny, order, tmp_path, log, how))
    samples = [sorted(result["samples"], key=lambda s: s["key"]) for result in found]
    assert samples[0] == samples[1]
    assert found[0]["scores"] == found[1]["scores"]
    assert len(found[0]["failed"]) == 4
    assert found[0]["costs"]["mean_frames"] == 10
    assert found[0]["run"]["prompt"] == "video-xl"


def test_questions_about_a_video_are_asked_in_one_call_and_answered_the_same(tiny, clip, tmp_path):
    shutil.copy(clip, tmp_path / "a.mp4")
    tries = tries_of(tmp_path, records("ret_edit", "a.mp4"))
    texts, together, named = [], [], []
    for how in (answer_settings(max_new_tokens=6), answer_settings(max_new_tokens=6, together=False)):
        settings = log_settings("vnbench", tmp_path / "VNBench-main-4try.json", tiny, how, prompt="video-xl")
        with SampleLog(tmp_path / f"log-{how.together}", settings) as log:
            result = evaluate(tiny, tries, tmp_path, log, how)
            together.append([record["together"] for record in log.records.values()])
        texts.append([sample["text"] for sample in result["samples"]])
        named.append(result["run"]["together"])
    assert texts[0] == texts[1]
    assert together == [[4] * 4, [1] * 4]
    assert named == [True, False]
