"""Each benchmark's annotation files: what is read, how it is asked, and what is refused."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from tests.conftest import require
from tests.evaluation.benchmarks import files
from tests.evaluation.benchmarks.files import written
from videoxl.errors import EvaluationError
from videoxl.evaluation.benchmarks.catalog import BENCHMARKS
from videoxl.evaluation.benchmarks.items import read_records, split_question, without_letters

FORMS = {
    "mlvu": files.MLVU,
    "mlvu-test": files.MLVU_HUB,
    "mlvu-generation": files.MLVU,
    "videomme": files.VIDEOMME,
    "videomme-v2": files.VIDEOMME_V2,
    "longvideobench": files.LONGVIDEOBENCH,
    "lvbench": files.LVBENCH,
    "egoschema": files.EGOSCHEMA_HUB,
    "longtimescope": files.LONGTIMESCOPE,
    "videoeval-pro": files.VIDEOEVAL_PRO,
    "videoeval-pro-open": files.VIDEOEVAL_PRO,
    "ovo-bench": files.OVO,
}


def items_of(name, tmp_path, records=None, file="annotations.json"):
    return BENCHMARKS[name].read(written(tmp_path, records or FORMS[name], file))


def asked(name, item, prompts=None):
    return BENCHMARKS[name].protocol(prompts)[1].ask(item)


def test_every_benchmark_has_a_form_here():
    assert FORMS.keys() == BENCHMARKS.keys()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet"])
def test_json_lines_and_parquet_are_read_alike(name, ending, tmp_path):
    if ending == ".parquet":
        require("pyarrow")
    assert items_of(name, tmp_path, file=f"x{ending}") == items_of(name, tmp_path)


def test_mlvu(tmp_path):
    first, second = items_of("mlvu", tmp_path)
    assert (first.answer, second.answer) == ("B", "C")  # of the text "3", not the letter
    assert first.categories == {"task_type": "plotQA"}
    hub = items_of("mlvu", tmp_path, files.MLVU_HUB)[0]
    assert (hub.question, hub.options, hub.answer) == (first.question, first.options, "B")
    listed = "What colour is the hat?\n(A) Red\n(B) Blue\n(C) Green\n(D) Grey"
    assert asked("mlvu", hub) == f"\n{listed}\nOnly give the best option.\n\nBest option: ("
    assert asked("mlvu", first) == asked("mlvu", hub)
    assert asked("mlvu", hub, "lmms") == f"{listed}\nOnly give the best option.\nBest option: ("
    assert asked("mlvu-test", hub, "lmms") == listed
    assert asked("mlvu-generation", items_of("mlvu-generation", tmp_path)[0]) == "What colour is the hat?"


def test_a_folder_of_annotations_is_read_in_the_order_of_its_names(tmp_path):
    written(tmp_path, files.MLVU[1:], "2_count.json")
    written(tmp_path, files.MLVU[:1], "1_plotQA.json")
    (tmp_path / "notes.txt").write_text("no records")
    assert [item.video for item in BENCHMARKS["mlvu"].read(tmp_path)] == ["movie_1.mp4", "count_2.mp4"]


def test_videomme(tmp_path):
    (item,) = items_of("videomme", tmp_path)
    assert (item.video, item.answer, item.options[0]) == ("abcXYZ.mp4", "C", "It's a hill.")
    begin = (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond"
        " with only the letter (A, B, C, or D) of the correct option.\nWhat is shown at 01:10?\n"
    )
    end = "\n\nAnswer with the option's letter from the given choices directly."
    assert asked("videomme", item) == begin + str(files.VIDEOMME[0]["options"]) + end
    assert asked("videomme", item, "lmms") == begin + "\n".join(files.VIDEOMME[0]["options"]) + end


def test_videomme_v2(tmp_path):
    items = items_of("videomme-v2", tmp_path)
    assert [item.answer for item in items] == ["A", "B", "C", "H"]
    assert asked("videomme-v2", items[0]) == (
        f"Question: Question 1?\n{files.VIDEOMME_V2[0]['options']}\nSelect the best answer to the following "
        "multiple-choice question based on the video. Respond with only the letter (A, B, C, D, E, F, G, or H) of the "
        "correct option."
    )


def test_longvideobench(tmp_path):
    first, second = items_of("longvideobench", tmp_path)
    assert (first.answer, second.answer, second.options) == ("E", "A", ("A man", "A woman"))
    assert asked("longvideobench", second) == (
        "Who speaks?\nA. A man\nB. A woman\nAnswer with the option's letter from the given choices directly.\n"
    )


def test_lvbench(tmp_path):
    first, second = items_of("lvbench", tmp_path)
    assert (first.key, first.video, first.answer) == ("Cm7x 0", "Cm7x.mp4", "D")
    assert second.categories == {"type": "cartoon", "question_type": "reasoning, summarization"}
    assert asked("lvbench", second) == (
        "Who wins?\nA. (A) A dog\nB. (B) A cat\nC. (C) Nobody\nD. (D) All\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert asked("lvbench", second, "lmms") == (
        "Who wins?\n(A) A dog\n(B) A cat\n(C) Nobody\n(D) All\nAnswer the question with the option letter"
    )
    released = {"video": "Cm7x", "type": "tv", "question": "Who wins?", "answer": "(D) All"}
    released["candidates"] = ["(A) A dog", "(B) A cat", "(C) Nobody", "(D) All"]
    (item,) = items_of("lvbench", tmp_path, [released])
    assert (item.options, item.answer) == (second.options, "D")


def test_egoschema_asks_what_has_an_answer(tmp_path):
    (tmp_path / "subset_answers.json").write_text(json.dumps({"u2": 4}))
    (item,) = items_of("egoschema", tmp_path, files.EGOSCHEMA)
    assert (item.key, item.video, item.answer, item.options[4]) == ("u2", "u2.mp4", "E", "aim 4")
    (hub,) = items_of("egoschema", tmp_path, files.EGOSCHEMA_HUB)
    assert hub.answer == "D"
    assert asked("egoschema", hub).startswith("What is the aim?\nA. aim 0\nB. aim 1\n")
    (tmp_path / "subset_answers.json").unlink()
    with pytest.raises(EvaluationError, match="no question has an answer; put EgoSchema's subset_answers"):
        items_of("egoschema", tmp_path, files.EGOSCHEMA)


def test_prompts_that_the_files_hold_are_asked_as_they_are(tmp_path):
    (item,) = items_of("longtimescope", tmp_path)
    assert asked("longtimescope", item) == files.LONGTIMESCOPE[0]["input"]
    (item,) = items_of("videoeval-pro", tmp_path)
    assert asked("videoeval-pro", item) == (
        "Who waves?\nA. A man\nB. A child\nC. Nobody\nAnswer with the option letter only."
    )
    (item,) = items_of("videoeval-pro-open", tmp_path)
    assert (item.answer, asked("videoeval-pro-open", item)) == (
        "A child",
        "Who waves? Keep the answer short and concise.",
    )


def test_ovo_bench(tmp_path):
    past, first, second, step, later = items_of("ovo-bench", tmp_path)
    assert (past.video, past.whole_video, past.end, past.answer) == ("12.mp4", "films/a.mp4", 7.5, "B")
    assert asked("ovo-bench", past) == (
        "\nQuestion: Where was the cup?\nOptions:\nA. table; B. shelf; C. floor;\n\nRespond only with the letter "
        "corresponding to your chosen option (e.g., A, B, C). \n"
        "Do not include any additional text or explanation in your response.\n"
    )
    assert [one.key for one in (first, second, step, later)] == ["40_0", "40_1", "41_0", "42_0"]
    assert [one.answer for one in (first, second, step, later)] == ["0", "2", "Yes", "No"]
    assert "How many times did they jump?" in asked("ovo-bench", first)
    assert "cut the onion" in asked("ovo-bench", step)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("mlvu", {"answer": "Pink"}, "record 0: the answer 'Pink' must be one of the options"),
        ("mlvu", {"candidates": []}, "1 to 26 options, got 0"),
        ("mlvu", {"candidates": "Red"}, "expected a list of texts under 'candidates', got 'Red'"),
        ("mlvu", {"candidates": [["Red"]]}, "expected a list of texts"),
        ("mlvu", {"question": ""}, "record 0: expected a text under 'question'"),
        ("mlvu-test", {"question": "No options?"}, "1 to 26 options, got 0"),
        ("videomme", {"options": "A. x"}, "expected a list of str under 'options'"),
        ("videomme", {"answer": "E"}, "the answer 'E' must be one of the options"),
        ("videomme-v2", {"group_type": "other"}, "group_type must be relevance or logic, got 'other'"),
        ("videomme-v2", {"group_structure": "[4, 3, 2, 1]"}, "group_structure must be one of"),
        ("videomme-v2", {"question_id": "first"}, "question_id must end in its place in the group"),
        ("longvideobench", {"candidates": 5}, "expected a list of texts under 'candidates', got 5"),
        (
            "lvbench",
            {"qa": [{"uid": "0", "question": "?", "answer": "A", "options": 3}]},
            "question 0: expected a list",
        ),
        ("egoschema", {"option": {"a": 1}}, "expected a list of texts under 'option'"),
        ("longvideobench", {"correct_choice": 5}, "correct_choice must be 0 to 4, got 5"),
        ("lvbench", {"qa": "none"}, "expected a list of dict under 'qa'"),
        ("egoschema", {"answer": "5"}, "the number of one of 5 options, got '5'"),
        ("longtimescope", {"answer": None}, "expected a text under 'answer'"),
        ("videoeval-pro", {"answer": "D"}, "the answer 'D' must be one of the options"),
        ("ovo-bench", {"task": "NEW"}, "task must be one of EPM"),
        ("ovo-bench", {"gt": 3}, "gt must be 0 to 2, got 3"),
    ],
)
def test_bad_records_are_named(name, change, complaint, tmp_path):
    records = deepcopy(FORMS[name])
    records[0] |= change
    with pytest.raises(EvaluationError, match=complaint):
        items_of(name, tmp_path, records)


@pytest.mark.parametrize("name", FORMS)
def test_no_value_of_a_field_ends_in_a_traceback(name, tmp_path):
    """Every field of the first record, replaced by values of every type: read, or refused by name."""
    for field in FORMS[name][0]:
        for value in (None, "", "x", 0, -1, 2.5, True, [], ["x"], [[1]], {}, {"a": 1}, "9" * 5000):
            records = deepcopy(FORMS[name])
            records[0][field] = value
            items, complaint = read_or_refused(name, tmp_path, records)
            assert all(item.question and item.key and item.video for item in items), (field, value)
            assert items or ("annotations " in complaint and "\n" not in complaint), (field, value)


def read_or_refused(name, tmp_path, records):
    try:
        return items_of(name, tmp_path, records), ""
    except EvaluationError as error:
        return [], str(error)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("[]", "hold no record"), ("3", "must hold a list"), ("[3]", "record 0 must be an object"), ("{", "damaged|JSON")],
)
def test_other_files_are_refused(content, complaint, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(EvaluationError, match=complaint):
        read_records(tmp_path / "x.json")
    (tmp_path / "x.parquet").write_bytes(b"PAR1no")
    with pytest.raises(EvaluationError, match="cannot be read as Parquet"):
        read_records(tmp_path / "x.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="the folder holds no"):
        read_records(tmp_path / "empty")


def test_the_same_question_twice_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="hold 1 questions twice, the first is '001-1'"):
        items_of("videomme", tmp_path, files.VIDEOMME * 2)


@pytest.mark.parametrize(
    ("text", "question", "options"),
    [
        ("Which?\n(A) red\n(B) a (C) thing", "Which?", ("red", "a (C) thing")),
        ("Which?\nA. red\nB. blue\n", "Which?", ("red", "blue")),
        ("Order: (1)one; (2)two.\n(A) 1\n(B) 2", "Order: (1)one; (2)two.", ("1", "2")),
        ("Line one\nline two\n(A) x\n(B) y", "Line one\nline two", ("x", "y")),
        ("No options (A)", "No options (A)", ()),
        ("Which?\n(A) red\n(C) blue", "Which?\n(A) red\n(C) blue", ()),
    ],
)
def test_options_within_a_question(text, question, options):
    assert split_question(text) == (question, options)


def test_letters_are_removed_only_where_all_options_have_theirs():
    assert without_letters(["A. x", "B) y", "(C) z"]) == ("x", "y", "z")
    assert without_letters(["A. x", "y"]) == ("A. x", "y")
    assert without_letters(["B. x", "A. y"]) == ("B. x", "A. y")
    assert without_letters([]) == ()
