"""Scores of lmms-eval runs, presets, and reports: by hand-computed cases and hostile files."""

from __future__ import annotations

import io
import json
import sys

import pytest
from PIL import Image

from tests.conftest import require
from videoxl.cli.main import main
from videoxl.config import BiLevelDecode, ChunkedPrefill, decode_from_string, prefill_from_string
from videoxl.errors import EvaluationError, MissingDependencyError
from videoxl.evaluation.lmms import running
from videoxl.evaluation.lmms.outcomes import outcome
from videoxl.evaluation.lmms.presets import MODES, PRESETS, Mode, mode_of
from videoxl.evaluation.lmms.running import Run, result_of, run_lmms, text
from videoxl.evaluation.lmms.scores import scored
from videoxl.evaluation.metrics import wilson_interval
from videoxl.evaluation.plots import PLOTS, draw, line_of
from videoxl.evaluation.report import published_scores, write_report
from videoxl.evaluation.rows import read_rows

# ---------------------------------------------------------------------------------------------------------- outcomes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1.0),
        (0.0, 0.0),
        (73.2, None),
        ("A", None),
        ({"score": 1.0}, 1.0),
        ({"pred_answer": "b", "answer": "B", "task_type": "order"}, 1.0),
        ({"pred_answer": "", "answer": "B"}, 0.0),
        ({"id": "x", "parsed_pred": "C", "answer": "D"}, 0.0),
        ({"id": "x"}, None),
        (None, None),
    ],
)
def test_what_tasks_say_of_a_sample(value, expected):
    assert outcome(value) == expected


def record(video: str, kind: str, *, paid: bool = False, text: str = "A") -> dict:
    return {
        "video": video,
        "document": {"task_type": kind},
        "text": text,
        "paid_reading": paid,
        "seconds": {"decode": 1.0, "vision": 2.0, "prefill": 3.0, "generate": 0.5},
        **{"frames": 8, "visual_tokens": 80, "memory_tokens": 100, "read_tokens": 100, "new_tokens": 2},
        **{"memory_bytes": 4000, "peak_gpu_bytes": None, "warnings": []},
    }


RECORDS = {
    "t/test/0": record("a.mp4", "order", paid=True),
    "t/test/1": record("a.mp4", "count"),
    "t/test/2": record("b.mp4", "count", paid=True, text=""),
    "t/test/10": record("b.mp4", "count"),
}
FAILED = {"t/test/3": {"video": "bad.mp4", "document": {"task_type": "order"}, "error": "not_a_video: bad"}}


def sample(number: int, right: bool) -> dict:
    return {"doc_id": number, "input": "?", "target": "A", "filtered_resps": "A", "acc": {"score": float(right)}}


SAMPLES = [sample(0, True), sample(1, True), sample(2, False), sample(10, True), sample(3, True)]


def test_scores_by_hand():
    found = scored(SAMPLES, RECORDS, FAILED, task="t", categories=("task_type", "domain"))
    assert found["accuracy"] == 3 / 5  # the failed one is wrong, though the task's random option was right
    assert found["macro"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["by"]["task_type"]["by"]["count"] == {"accuracy": 2 / 3, "samples": 3}
    assert list(found["by"]) == ["task_type"]
    assert found["failed"] == {"t/test/3": "not_a_video: bad"}
    assert (found["samples"], found["videos"], found["empty_answers"]) == (5, 3, 1)
    assert found["costs"]["reading_seconds_per_video"] == 6.0
    assert found["costs"]["seconds_per_answer"] == 0.5
    low, high = found["interval"]
    assert 0 <= low < found["accuracy"] < high <= 1


def test_samples_of_another_run_are_refused():
    with pytest.raises(EvaluationError, match="sample 7 of t is not in the logs"):
        scored([sample(7, True)], RECORDS, FAILED, task="t")
    with pytest.raises(EvaluationError, match="does not say which answers are right"):
        scored([{**sample(0, True), "acc": "A"}], RECORDS, FAILED, task="t")


# ----------------------------------------------------------------------------------------------------------- presets


PUBLISHED = ("mlvu", "videomme", "longvideobench", "lvbench")


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("mode", MODES)
def test_presets_say_what_was_published(name, mode):
    args = PRESETS[name].model_args(mode)
    prefill, decode = prefill_from_string(args["prefill"]), decode_from_string(args["decode"])
    assert isinstance(prefill, ChunkedPrefill) == (mode != "full")
    assert isinstance(decode, BiLevelDecode) == (mode == "bilevel")
    for one in published_scores()["scores"]:
        if (one["benchmark"], one["mode"]) == (name, mode):
            assert args["max_frames"] == one["max_frames"]
            if "blocks" in one:
                assert prefill == ChunkedPrefill.from_blocks(*one["blocks"])
    with pytest.raises(ValueError, match="--mode must be one of full, chunked, bilevel"):
        PRESETS[name].model_args("pure")


def test_modes_of_benchmarks_without_published_settings():
    assert mode_of("egoschema", "full") == Mode()
    assert mode_of("ovo-bench", "bilevel").decode == BiLevelDecode()
    assert mode_of("mlvu", "full") == Mode(256)  # each model reads as it does by itself
    assert mode_of("mlvu", "chunked") == PRESETS["mlvu"].modes["chunked"]
    with pytest.raises(ValueError, match="--mode must be one of full, chunked, bilevel, got 'pure'"):
        mode_of("ovo-bench", "pure")


def test_every_published_score_tells_its_settings_and_known_problems():
    found = published_scores()
    assert {one["benchmark"] for one in found["scores"]} == set(PUBLISHED)
    for one in found["scores"]:
        assert one["score"] == round(100 * one["right"] / one["questions"], 2)  # all are micro averages
        assert set(one["problems"]) <= set(found["problems"])
    assert {name for one in found["scores"] for name in one["problems"]} == set(found["problems"])


# -------------------------------------------------------------------------------------------------------------- runs


def made_run(folder) -> Run:
    """As a run of lmms-eval leaves it."""
    run = Run(task="t", model_args={"pretrained": "tiny"}, folder=folder, categories=("task_type",), mode="given")
    (folder / "logs").mkdir()
    how = {"model": "tiny", "prefill": "full", "decode": "dense", "hardware": "cpu", "versions": {"videoxl": "0.1"}}
    (folder / "logs" / "samples-000-of-001.run.json").write_text(json.dumps(how))
    lines = [{"evaluation_log": 1}, *({"key": key, "record": one} for key, one in RECORDS.items())]
    (folder / "logs" / "samples-000-of-001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "logs" / "samples-000-of-001.failed.json").write_text(json.dumps(FAILED))
    (folder / "lmms-eval" / "tiny").mkdir(parents=True)
    written = folder / "lmms-eval" / "tiny" / "2026_samples_t.jsonl"
    written.write_text("".join(json.dumps(one) + "\n" for one in SAMPLES))
    (folder / "lmms-eval" / "tiny" / "2026_results.json").write_text(json.dumps({"results": {"t": {"acc,none": 0.8}}}))
    return run


def test_a_result_tells_both_averages_and_how_it_was_made(tmp_path):
    run = made_run(tmp_path)
    result = result_of(run, tmp_path / "lmms-eval" / "tiny" / "2026_samples_t.jsonl")
    assert result["scores"]["accuracy"] == 0.6
    assert result["lmms_eval"] == {"acc,none": 0.8}
    assert result["run"]["versions"] == {"videoxl": "0.1"}
    shown = text(result)
    for part in ("micro   60.0 %", "macro   58.3 %", "failed  1, which count as wrong", "not_a_video: bad", "8 frames"):
        assert part in shown


def test_the_command_can_hold_any_strategy_and_says_what_it_cannot_hold(tmp_path):
    args = {"pretrained": "tiny", "prefill": "chunked:chunk_size=8,step_size=4", "fps": None}
    command = Run(task="t", model_args=args, folder=tmp_path, processes=2, interface="simple", limit=3).command()
    told = command[command.index("--model_args") + 1]
    strategy = "prefill=chunked:chunk_size=8;step_size=4"
    assert told == f"log={tmp_path}/logs,resume=False,check_outcome=True,pretrained=tiny,{strategy}"
    assert {"--force_simple", "--limit", "--num_processes"} <= set(command)
    with pytest.raises(ValueError, match="rename"):
        Run(task="t", model_args={"pretrained": "a,b"}, folder=tmp_path).command()


def test_without_lmms_eval_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(running.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"videoxl\[eval\]"):
        run_lmms(Run(task="t", model_args={}, folder=tmp_path))


def test_what_lmms_eval_prints_commands_no_terminal(tmp_path, monkeypatch, capfd):
    code = r"import sys; print('\x1b[2J\r 50%\r100%'); print('\x9b', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr(Run, "command", lambda run: [sys.executable, "-X", "utf8", "-c", code])
    monkeypatch.setattr(running, "require_lmms_eval", lambda: "0")
    with pytest.raises(EvaluationError, match="ended with status 3 "):
        run_lmms(Run(task="t", model_args={}, folder=tmp_path))
    assert set(capfd.readouterr().err.splitlines()) == {r"\x1b[2J", " 50%", "100%", r"\x9b"}


# ------------------------------------------------------------------------------------------------------------ reports


def cell(frames: int, depth: float, right: int) -> dict:
    return {"frames": frames, "depth": depth, "right": right, "questions": 4, "accuracy": right / 4} | {
        "reading_seconds": frames / 10,
        "memory_bytes": frames * 1000,
    }


def niah(folder, name="niah.json", **changes):
    cells = [cell(64, 0.0, 4), cell(64, 1.0, 2), cell(1024, 0.0, 1), cell(1024, 1.0, 1)]
    how = {"model": "tiny", "prefill": "full", "decode": "dense", "hardware": "cpu", "versions": {"torch": "2"}}
    numbers = {"accuracy": 0.5, "interval": [0.3, 0.7], "questions": 16, "cells": cells}
    (folder / name).write_text(json.dumps({"benchmark": "niah", "failed": {}, "run": how, **numbers, **changes}))
    return folder / name


def test_rows_of_a_grid_are_drawn_by_length(tmp_path):
    (row,) = read_rows([str(niah(tmp_path))])
    assert [(p.frames, p.accuracy, p.seconds, p.bytes) for p in row.points] == [
        (64, 0.75, 6.4, 64000),
        (1024, 0.25, 102.4, 1024000),
    ]
    assert (row.accuracy, row.interval, row.samples) == (0.5, (0.3, 0.7), 16)


def test_a_report_of_everything(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run = made_run(folder)
    result = result_of(run, folder / "lmms-eval" / "tiny" / "2026_samples_t.jsonl")
    (folder / "result.json").write_text(json.dumps(result))
    niah(folder)
    rows = write_report([str(folder)], tmp_path / "report")
    assert [row["benchmark"] for row in rows] == ["niah", "t"]
    text = (tmp_path / "report" / "report.md").read_text()
    for part in ("| t | tiny | full | dense | 60.0 micro |", "50.0 micro", "73.87", "LanguageBind", "run/niah.json"):
        assert part in text
    assert str(tmp_path) not in text
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    pictures = [(tmp_path / "report" / f"{what}.png").read_bytes() for what in PLOTS]
    assert len(set(pictures)) == 3
    assert all(min(Image.open(io.BytesIO(picture)).size) > 300 for picture in pictures)
    assert "| 73.87 | 7" in text  # with its interval


def test_ways_compared_in_one_result_are_rows_of_their_own(tmp_path):
    numbers = {"accuracy": 0.5, "interval": None, "questions": 4, "cells": [cell(64, 0.0, 2)]}
    path = niah(tmp_path, ways={"oracle": numbers, "random": numbers})
    assert [row.decode for row in read_rows([str(path)])] == ["dense (oracle)", "dense (random)"]


def test_markup_in_a_result_is_text(tmp_path):
    how = {
        "model": "<script>|x\x1b[2J\udcff $\\frac$",
        "prefill": "full",
        "decode": "dense",
        "hardware": "",
        "versions": {},
    }
    write_report([str(niah(tmp_path, run=how))], tmp_path / "report", published=False)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script>" not in page
    assert r"x\x1b[2J\udcff" in page
    assert r"<script>\|x\x1b[2J\udcff" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"cells": 1}', '{"benchmark": "x", "scores": {}}', "\xff", "null"]
)
def test_what_is_no_result_is_refused(tmp_path, content):
    (tmp_path / "result.json").write_text(content, encoding="latin-1")
    with pytest.raises(EvaluationError, match="is no result of an evaluation"):
        read_rows([str(tmp_path / "result.json")])
    with pytest.raises(EvaluationError, match="no such file"):
        read_rows([str(tmp_path / "absent")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="no result in"):
        read_rows([str(tmp_path / "empty")])


def test_a_row_without_costs_is_in_the_table_and_in_no_plot(tmp_path):
    numbers = {"accuracy": None, "interval": None, "questions": 0, "cells": []}
    rows = write_report([str(niah(tmp_path, **numbers))], tmp_path / "report")
    assert rows[0]["accuracy"] is None
    assert not list((tmp_path / "report").glob("*.png"))


def test_plots_begin_at_zero_and_accuracies_have_intervals(tmp_path, monkeypatch):
    require("matplotlib")
    from matplotlib.axes import Axes

    limits = []
    monkeypatch.setattr(Axes, "set_xlim", lambda self, low, high: limits.append(low))
    monkeypatch.setattr(Axes, "set_ylim", lambda self, low, high: limits.append(low))
    rows = read_rows([str(niah(tmp_path))])
    for what in PLOTS:
        draw(rows, what)
    assert limits == [0] * 6
    low, high = wilson_interval(6, 8)
    first = line_of(rows[0], "accuracy")[0]
    assert first == (64, 75, pytest.approx(100 * low), pytest.approx(100 * high))
    assert line_of(rows[0], "memory")[0] == (64, 0.064, 0.064, 0.064)


def test_plots_are_the_same_every_time(tmp_path):
    rows = read_rows([str(niah(tmp_path))])
    assert draw(rows, "accuracy") == draw(rows, "accuracy")


def test_the_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["eval", "report", str(niah(tmp_path)), "-o", str(tmp_path / "out"), "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["rows"][0]["accuracy"] == 0.5
    for wrong, said in (
        (["eval", "lmms"], "give either --preset"),
        (["eval", "lmms", "--preset", "mmlu"], "--preset must be one of mlvu"),
        (["eval", "lmms", "--task", "x", "--prefill", "nonsense"], "unknown prefill strategy"),
        (["eval", "report", str(tmp_path / "absent")], "no such file"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
