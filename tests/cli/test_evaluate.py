"""``videoxl eval niah`` as its users meet it."""

from __future__ import annotations

import json

import pytest

from videoxl.cli.main import main


@pytest.fixture
def run(capsys):
    """Exit status, stdout, stderr of the command, in this process."""

    def command(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--frames", "many"), "frames must be numbers"),
        (("--frames", "2"), "8 to"),
        (("--depths", "0,2"), "from 0 to 1"),
        (("--kinds", "colour"), "kinds must be one of"),
        (("--resume",), "give --output"),
        (("--preset", "paper"), "default, released"),
        (("--preset", "released"), "--haystack and --pictures"),
        (("--decode", "twice"), "unknown decode strategy"),
        (("--prefill", "twice"), "unknown prefill strategy"),
        (("--relevance", "oracle"), "belong to bi-level decoding"),
        (("--relevance", "luck", "--decode", "bilevel"), "relevance must be one of oracle, attention"),
        (("--relevance", "none,none", "--decode", "bilevel"), "name different selectors"),
        (("--relevance", "none", "--ablation", "--decode", "bilevel"), "leave out --relevance"),
    ],
)
def test_a_mistake_is_one_line_and_costs_no_model(run, monkeypatch, arguments, message):
    monkeypatch.setattr("videoxl.inference.engine.load", lambda *a, **k: pytest.fail("loaded a model"))
    status, out, err = run("eval", "niah", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_one_json_object_on_stdout_and_files_in_the_folder(run, tmp_path):
    grid = ("--model", "tiny", "--frames", "8,16", "--depths", "0,1", "--samples", 1, "--seed", 4)
    rest = ("--max-new-tokens", 12, "--output", tmp_path / "out", "--no-heatmap", "--json")
    status, out, err = run("eval", "niah", *grid, *rest)
    assert status == 0
    result = json.loads(out)
    cells = {(cell["frames"], cell["depth"]): (cell["right"], cell["questions"]) for cell in result["cells"]}
    assert cells == dict.fromkeys([(8, 0.0), (8, 1.0), (16, 0.0), (16, 1.0)], (6, 6))
    assert (result["accuracy"], result["questions"], result["no_video"]["accuracy"]) == (1.0, 24, 0.0)
    assert {kind: found["samples"] for kind, found in result["by_kind"].items()} == {
        "at": 4, "color": 4, "present": 8, "shape": 4, "when": 4
    }  # fmt: skip
    assert result["run"]["seed"] == 4
    assert "haystack 16/0/1: 16 frames" in err
    assert json.loads((tmp_path / "out" / "niah.json").read_text()) == result
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"answers.jsonl", "niah.json", "cells"}
    status, out, err = run("eval", "niah", *grid, *rest)
    assert (status, out) == (2, "")
    assert "--resume" in err
