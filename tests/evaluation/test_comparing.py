"""Results compared question by question, and what their runs differ in."""

from __future__ import annotations

import json

import pytest

from videoxl.evaluation.comparing import compare_all, differences, outcome_of
from videoxl.evaluation.report import write_report

RUN = {
    "model": "tiny",
    "prefill": "full",
    "decode": "dense",
    "annotations": "a1",
    "hardware": "cpu",
    "dtype": "float32",
}


def result(folder, right, *, samples="beside", name="result.json", **run):
    folder.mkdir(parents=True)
    rows = [{"key": str(n), "video": f"{n // 2}.mp4", "right": one} for n, one in enumerate(right)]
    scores = {"accuracy": sum(right) / len(right), "interval": [0.0, 1.0], "samples": len(right)}
    made = {"benchmark": "mlvu", "scores": scores, "failed": {}, "run": {**RUN, "versions": {"torch": "2.1"}, **run}}
    if samples == "beside":
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif samples == "within":
        made["samples"] = rows
    (folder / name).write_text(json.dumps(made))
    return folder / name


def test_two_results_on_the_same_questions(tmp_path):
    first = result(tmp_path / "full", [True, False, True, True])
    second = result(
        tmp_path / "bilevel", [True, True, True, False], samples="within", decode="bilevel", versions={"torch": "2.2"}
    )
    ((pair,), others) = compare_all([first, second])
    assert (pair.comparison.only_first, pair.comparison.only_second, pair.comparison.p_value) == (1, 1, 1.0)
    assert pair.settings == ["decode 'dense', 'bilevel'"]
    assert pair.machine == ["versions.torch '2.1', '2.2'"]
    assert others == []


def test_other_questions_are_not_compared_and_that_is_said(tmp_path):
    first = result(tmp_path / "one", [True, False])
    second = result(tmp_path / "two", [True, False], annotations="a2")
    pairs, others = compare_all([first, second])
    assert pairs == []
    assert others == ["one/result.json and two/result.json asked other questions: annotations 'a1', 'a2'"]
    other = result(tmp_path / "three", [True], samples="none")
    assert compare_all([first, other]) == ([], [])


def test_selectors_of_a_haystack_are_compared_with_each_other(tmp_path):
    folder = tmp_path / "relevance"
    folder.mkdir()
    run = {**RUN, "versions": {}, "decode": "bilevel", "ways": ["oracle", "none"]}
    (folder / "niah.json").write_text(json.dumps({"benchmark": "niah", "run": run, "ways": {}, "failed": {}}))
    lines = [{"evaluation_log": 1, "settings": {}}]
    for way, right in (("oracle", [True, True]), ("none", [True, False])):
        records = [{"right": one, "way": way, "haystack": f"h{n}"} for n, one in enumerate(right)]
        lines += [{"key": f"128/0/{n}/{way}", "record": record} for n, record in enumerate(records)]
    lines.append({"key": "control", "record": {"right": True}})
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ((pair,), _) = compare_all([folder / "niah.json"])
    assert (pair.first.source, pair.second.source) == ("relevance/niah.json (none)", "relevance/niah.json (oracle)")
    assert (pair.comparison.questions, pair.comparison.only_second) == (2, 1)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"right": True}, 1.0),
        ({"right": 0.0}, 0.0),
        ({"iou": 0.4}, 0.4),
        ({"chosen": "A", "truth": "A"}, 1.0),
        ({"chosen": None, "truth": "A"}, 0.0),
        ({"text": "no outcome"}, None),
    ],
)
def test_outcomes_of_samples(sample, expected):
    assert outcome_of(sample) == expected


def test_a_report_says_what_differs(tmp_path):
    result(tmp_path / "runs" / "full", [True, False, True, False])
    result(tmp_path / "runs" / "chunked", [True, True, True, True], prefill="chunked")
    write_report([str(tmp_path / "runs")], tmp_path / "report", published=False)
    text = (tmp_path / "report" / "report.md").read_text()
    assert (
        "| mlvu | chunked/result.json | full/result.json | 4 | 100.0 | 50.0 | -50.0 (-50.0 to -50.0) | 2 | 0 |" in text
    )
    assert "prefill 'chunked', 'full'" in text
    assert "## Compared" in (tmp_path / "report" / "report.md").read_text()


def test_differences_name_parts():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": None}) == [
        "a.c 2, 3",
        "d 'not told', None",
    ]
