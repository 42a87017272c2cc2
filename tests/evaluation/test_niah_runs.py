"""Whole runs with the embedded model, whose answers do not matter here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import videoxl
from tests import media
from tests.conftest import require
from tests.evaluation.test_niah_parts import needle_folder
from videoxl.config import DenseDecode, prefill_from_string
from videoxl.errors import EvaluationError, MissingDependencyError, VideoError
from videoxl.evaluation.niah.heatmap import draw_heatmap
from videoxl.evaluation.niah.output import write_results
from videoxl.evaluation.niah.runner import run_niah
from videoxl.evaluation.niah.settings import SELECTORS, NiahSettings
from videoxl.evaluation.niah.summary import selectors_table, summary, text
from videoxl.evaluation.no_video import answer_without_video

SMALL = NiahSettings(frames=(16, 48), depths=(0.0, 0.5), samples=1, kinds=("color", "number", "at"), max_new_tokens=4)


def without_seconds(result):
    """What must be the same however often a run was interrupted."""
    kept = json.loads(json.dumps(result))
    for cell in kept["cells"]:
        del cell["reading_seconds"], cell["answer_seconds"]
    del kept["run"]["command"]
    return kept


@pytest.fixture(scope="module")
def tiny():
    """The embedded model, which another process can load too."""
    return videoxl.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def small(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("niah")
    return run_niah(tiny, SMALL, log=folder / "answers.jsonl"), folder


def test_a_result_has_every_cell_and_says_how_it_was_run(small, tiny):
    result, _ = small
    assert [(c["frames"], c["depth"]) for c in result["cells"]] == [(16, 0.0), (16, 0.5), (48, 0.0), (48, 0.5)]
    assert result["accuracy"] == sum(c["right"] for c in result["cells"]) / result["questions"]
    assert result["questions"] == sum(c["questions"] for c in result["cells"])
    assert all(c["haystacks"] == 1 and c["seen"] == 1.0 for c in result["cells"])
    assert result["failed"] == {}
    assert 0 < result["chance"] < 0.5
    assert result["no_video"]["questions"] == result["questions"]
    run = result["run"]
    assert run["prefill"] == "full"
    assert run["decode"] == "dense"
    assert run["fingerprint"] == tiny.fingerprint
    assert run["seed"] == 0
    assert "accuracy" in text(result)
    json.dumps(result, allow_nan=False)


def test_every_answer_is_the_one_that_users_calls_give(small, tiny):
    from videoxl.config import Sampling
    from videoxl.evaluation.niah.haystacks import make_haystack
    from videoxl.evaluation.niah.settings import haystack_plans

    _, folder = small
    kept = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()[1:]]
    records = {line["key"]: line["record"] for line in kept}
    place = list(haystack_plans(SMALL, 1))[-1]
    made = make_haystack(SMALL, place, size=tiny.config.image_size, kinds=SMALL.kinds, needles=[], video=None)
    memory = tiny.encode(made.source, sampling=Sampling(indices=tuple(range(place.frames))))
    for number, asked in reversed(list(enumerate(made.questions))):
        record = records[f"{place.name}/{number}/given"]
        assert record["question"] == asked.text
        assert record["text"] == tiny.ask(memory, asked.text, max_new_tokens=4).text


def test_questions_about_a_haystack_are_asked_together_or_one_by_one(small, tiny, tmp_path):
    result, folder = small
    alone = run_niah(tiny, replace(SMALL, frames=(16,), together=False), control=False, log=tmp_path / "answers.jsonl")
    assert (result["run"]["together"], alone["run"]["together"]) == (True, False)
    kept = []
    for where in (folder, tmp_path):
        lines = map(json.loads, (where / "answers.jsonl").read_text().splitlines()[1:])
        kept.append({line["key"]: line["record"] for line in lines if "key" in line})
    both = kept[1].keys()
    assert min(kept[0][key]["together"] for key in both) > 1
    assert {kept[1][key]["together"] for key in both} == {1}
    assert {key: kept[0][key]["text"] for key in both} == {key: kept[1][key]["text"] for key in both}


def test_a_run_that_was_killed_goes_on_without_repeating_or_losing_a_sample(small, tiny, tmp_path):
    """kill -9 in the middle; what was answered is kept, the rest is answered, the result is the uninterrupted one."""
    log = tmp_path / "answers.jsonl"
    code = f"""
import videoxl
from tests.evaluation.test_niah_runs import SMALL
from videoxl.evaluation.niah.runner import run_niah
run_niah(videoxl.load("tiny", device="cpu"), SMALL, log={str(log)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 4):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = log.read_text().splitlines(keepends=True)
    done = {json.loads(line)["key"] for line in before[1:] if line.endswith("\n")}
    with pytest.raises(EvaluationError, match="--resume"):
        run_niah(tiny, SMALL, log=log)
    resumed = run_niah(tiny, SMALL, log=log, resume=True)
    full, folder = small
    assert without_seconds(resumed) == without_seconds(full)
    keys = [json.loads(line).get("key") for line in log.read_text().splitlines()[1:]]
    keys = [key for key in keys if key]
    assert len(set(keys)) == len(keys)
    assert done < set(keys)
    whole = [json.loads(line).get("key") for line in (folder / "answers.jsonl").read_text().splitlines()[1:]]
    assert sorted(keys) == sorted(key for key in whole if key)


def test_a_finished_run_asks_nothing_again_and_other_settings_are_refused(small, tiny, monkeypatch):
    full, folder = small

    def never(*arguments, **settings):
        raise AssertionError("asked again")

    monkeypatch.setattr(type(tiny), "encode", never)
    again = run_niah(tiny, SMALL, log=folder / "answers.jsonl", resume=True)
    assert without_seconds(again) == without_seconds(full)
    with pytest.raises(EvaluationError, match="seed was 0, is now 1"):
        run_niah(tiny, NiahSettings(**{**vars(SMALL), "seed": 1}), log=folder / "answers.jsonl", resume=True)


def test_files_of_a_run(small, tmp_path):
    require("matplotlib")
    result, folder = small
    write_results(folder, result)
    assert json.loads((folder / "niah.json").read_text())["accuracy"] == result["accuracy"]
    assert (folder / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    cell = json.loads((folder / "cells" / "48-0.5.json").read_text())
    assert cell["right"] == sum(answer["right"] for answer in cell["answers"])
    assert len(cell["answers"]) == cell["questions"]
    assert len(list((folder / "cells").iterdir())) == 4


def test_without_matplotlib_the_extra_is_named(small, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"videoxl\[eval\]"):
        draw_heatmap(small[0], tmp_path / "heatmap.png")


def test_the_ways_of_choosing_are_compared_on_the_same_needles(tiny, tmp_path, monkeypatch):
    settings = NiahSettings(
        frames=(96,), depths=(0.0, 0.4), samples=1, kinds=("color", "number"), decode="bilevel:top_k=1,block_size=4"
    )
    result = run_niah(tiny, settings, selectors=SELECTORS, control=False)
    ways = result["ways"]
    assert list(ways) == list(SELECTORS)
    assert result["not_available"] == {}
    assert len({found["questions"] for found in ways.values()}) == 1
    assert ways["oracle"]["inner_seen"] == 1.0
    assert ways["none"]["inner_seen"] == 0.0
    assert ways["dense"]["read_share"] == 1.0
    shares = [ways[way]["read_share"] for way in ("none", "oracle", "random", "dense")]
    assert shares == sorted(shares)  # the oracle needs no block at depth 0, which is read anyhow
    assert len(set(shares)) == 4
    assert selectors_table(result).count("\n") == 7
    monkeypatch.setattr(tiny, "siglip", None)
    monkeypatch.setattr(tiny.model.config, "_name_or_path", "")
    without = run_niah(tiny, settings, selectors=SELECTORS, control=False)
    assert list(without["ways"]) == [way for way in SELECTORS if way != "siglip"]
    assert "--siglip" in without["not_available"]["siglip"]
    with pytest.raises(ValueError, match="bi-level"):
        run_niah(tiny, SMALL, selectors=SELECTORS)
    with pytest.raises(ValueError, match="comes without a SigLIP model"):
        run_niah(tiny, settings, selectors=("siglip",))
    alone = run_niah(tiny, settings, selectors=("random",), control=False, log=tmp_path / "answers.jsonl")
    assert alone["not_available"] == {}
    (cell,), (same,) = ([c for c in r["ways"]["random"]["cells"] if c["depth"] == 0.4] for r in (alone, result))
    assert {**cell, "reading_seconds": 0, "answer_seconds": 0} == {**same, "reading_seconds": 0, "answer_seconds": 0}
    require("matplotlib")
    write_results(tmp_path, alone)
    assert {path.name for path in tmp_path.glob("*.png")} == {"heatmap.png", "heatmap-random.png"}


def test_pictures_in_a_film_by_the_released_protocol(tiny, tmp_path):
    film = media.write_video(tmp_path / "film.mp4", frames=40, fps=4)
    settings = NiahSettings(
        frames=(20,),
        depths=(0.0, 1.0),
        haystack=str(film),
        pictures=str(needle_folder(tmp_path)),
        prompt="Question: {question}\nAnswer: ",
        judge="released",
        max_new_tokens=2,
    )
    result = run_niah(tiny, settings)
    assert result["questions"] == 4  # two pictures, one after the other, at two depths
    assert set(result["by_kind"]) == {"red", "green"}
    assert result["chance"] == 0.5
    assert result["run"]["haystack"] == "film.mp4"
    assert str(tmp_path) not in json.dumps({**result["run"], "command": ""})


def test_a_haystack_that_cannot_be_read_fails_and_is_not_answered(tiny, tmp_path, monkeypatch):
    log = tmp_path / "answers.jsonl"

    def broken(self, *arguments, **settings):
        raise VideoError("half of it is gone", code="partial")

    with monkeypatch.context() as patch:
        patch.setattr(type(tiny), "encode", broken)
        result = run_niah(tiny, SMALL, log=log)
    assert len(result["failed"]) == 4
    assert "half of it is gone" in result["failed"]["16/0/0"]
    assert result["accuracy"] is None
    assert result["cells"] == []
    assert result["no_video"]["questions"] == 0
    assert "failed" in text(result)
    assert len(run_niah(tiny, SMALL, log=log, resume=True)["cells"]) == 4  # tried again


def test_an_answer_without_video_is_that_of_the_bare_prompt(tiny):
    """Against transformers' generate on the ids of the prompt."""
    import torch

    question = "What color is the star?"
    ids = torch.tensor([[*tiny.chat_format.prefix(), *tiny.chat_format.suffix(question)]])
    out = tiny.model.generate(input_ids=ids, max_new_tokens=5, do_sample=False, eos_token_id=tiny.end_ids)
    expected = tiny.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert answer_without_video(tiny, question, max_new_tokens=5) == expected


def test_numbers_of_a_summary_by_hand():
    def record(way, haystack, depth, kind, right, inner, seen, read):
        return {
            "way": way, "haystack": haystack, "frames": 64, "depth": depth, "kind": kind, "right": right,
            "chance": 0.25, "inner": inner, "seen": seen, "read_tokens": read, "memory_tokens": 100,
            "memory_bytes": 7, "peak_gpu_bytes": None, "seconds": {"prefill": 2.0, "vision": 1.0, "generate": 0.5},
        }  # fmt: skip

    records = [
        record("none", "a", 0.0, "color", True, False, True, 50),
        record("none", "a", 0.0, "when", False, False, True, 50),
        record("none", "b", 0.5, "color", False, True, False, 30),
        record("dense", "b", 0.5, "color", True, True, True, 100),
    ]
    found = summary(records, [], {}, selectors=("none", "dense"), unavailable={})
    none = found["ways"]["none"]
    assert none["accuracy"] == pytest.approx(1 / 3)
    assert (none["inner_accuracy"], none["inner_seen"], none["inner_questions"]) == (0.0, 0.0, 1)
    assert none["read_share"] == pytest.approx((0.5 + 0.5 + 0.3) / 3)
    first = none["cells"][0]
    assert (first["right"], first["questions"], first["haystacks"]) == (1, 2, 1)
    assert first["reading_seconds"] == 3.0
    assert first["by_kind"] == {"color": {"accuracy": 1.0, "samples": 1}, "when": {"accuracy": 0.0, "samples": 1}}
    assert found["chance"] == 0.25
    assert found["no_video"]["accuracy"] is None


def test_the_strategies_asked_for_are_the_ones_used(tiny):
    settings = NiahSettings(**{**vars(SMALL), "frames": (16,), "depths": (0.5,), "prefill": "chunked"})
    result = run_niah(tiny, settings, control=False)
    assert prefill_from_string(result["run"]["prefill"]) == prefill_from_string("chunked")
    assert result["run"]["decode"] == str(DenseDecode())
    with pytest.raises(ValueError, match="beacon"):
        run_niah(tiny, NiahSettings(prefill="beacon"))
