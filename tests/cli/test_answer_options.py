"""Options of an answer on the command line: each reaches the model, and what cannot be met is one line."""

# ruff: noqa: F811  (fixtures of another file have the names of arguments)

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.test_cli import Run, one_line, videoxl  # noqa: F401  (fixtures)
from tests.inference.test_together import film


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from videoxl import load

    path = tmp_path_factory.mktemp("answers") / "film.vxl"
    load("tiny", device="cpu").encode(frames=film(24, 1), fps=1).save(path)
    return path


def test_options_of_an_answer(videoxl: Run, memory: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["left", "right"]}')
    ask = ("ask", memory, "Which side?", "-q")
    (chosen,) = json.loads(videoxl(*ask, "--choice", "left", "--choice", "right", "--json").stdout)
    assert chosen["answer"] in ("left", "right")
    assert sum(one["probability"] for one in chosen["choices"]) == pytest.approx(1)
    assert videoxl(*ask, "--choice", "left", "--choice", "right").stdout == chosen["answer"] + "\n"
    assert json.loads(videoxl(*ask, "--schema", schema).stdout) in ("left", "right")
    assert re.fullmatch("[0-9]{2} s\n", videoxl(*ask, "--regex", "[0-9]{2} s").stdout)
    assert videoxl(*ask, "--prefix", "It is", "--max-new-tokens", 2).stdout.startswith("It is")
    drawn = videoxl(*ask, "--n", 3, "--do-sample", "--max-new-tokens", 4, "--regex", "[a-z]{4,}")
    assert len(drawn.stdout.splitlines()) == 3
    (likely,) = json.loads(
        videoxl(*ask, "--logprobs", 2, "--max-new-tokens", 3, "--min-new-tokens", 3, "--json").stdout
    )
    assert [len(one["top"]) for one in likely["logprobs"]] == [2, 2, 2]
    (told,) = json.loads(videoxl(*ask, "--system", "Be brief.", "--max-new-tokens", 1, "--json").stdout)
    assert told["usage"]["prompt_tokens"] > likely["usage"]["prompt_tokens"]


def test_an_answer_that_was_cut_off_says_so(videoxl: Run, memory: Path) -> None:
    result = videoxl("ask", memory, "When?", "--regex", "[0-9]{9}", "--max-new-tokens", 4, "-q")
    assert result.returncode == 0
    assert re.fullmatch("[0-9]{1,4}\n", result.stdout)
    assert "warning: the answer was cut off at max_new_tokens=4 and does not match all of regex" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--choice", "a", "--choice", "a"), "choices holds 'a' twice"),
        (("--choice", "a"), "choices holds one option, 'a': give at least two"),
        (("--choice", "a", "--choice", ""), "choices holds an empty option"),
        (("--schema", "nowhere.json"), "schema must be a file with a JSON schema; 'nowhere.json': No such file"),
        (("--regex", "a("), "regex cannot be used: unclosed group"),
        (("--n", "2"), "n=2 only has a meaning when sampling"),
        (("--min-new-tokens", "9", "--max-new-tokens", "3"), "min_new_tokens=9 is above max_new_tokens=3"),
    ],
)
def test_what_cannot_be_met_is_said_before_the_video_is_read(videoxl: Run, options: tuple, message: str) -> None:
    result = videoxl("ask", "no such film.mp4", "Which?", *options)
    assert result.returncode == 2
    assert message in one_line(result)
