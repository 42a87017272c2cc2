"""Keywords as types belong to the settings they stand for, and a type checker finds one that does not exist."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from videoxl.config import Generation, Sampling
from videoxl.config_keywords import ExtendKeywords, GenerationKeywords, SamplingKeywords
from videoxl.inference.engine import ENCODE_KEYWORDS, VideoXL
from videoxl.inference.extend import extend
from videoxl.inference.keywords import AnswerKeywords
from videoxl.settings import settable

ROOT = Path(__file__).parents[1]
WIDER = {"stop", "choices"}
"""Settings that take more than they keep."""
RIGHT = """
import videoxl
model = videoxl.load("tiny")
memory = model.encode("film.mp4", fps=1)
answer: videoxl.Answer = model.ask(memory, "Why?", max_new_tokens=5, stop="x", choices=["a", "b"])
several: list[videoxl.Answer] = model.ask(memory, ["Why?"], together=False, schema={"type": "object"})
model.answer("film.mp4", "Why?", fps=2, logprobs=3)
for piece in model.stream(memory, "Why?", prefix="Because"):
    print(piece.text)
model.chat_session(memory).ask("Why?", temperature=0.5, do_sample=True)
memory.extend("more.mp4", fps=1)
print(videoxl.plan("film.mp4", max_frames=8))
"""
WRONG = (
    'model.ask(memory, "Why?", max_new_token=5)',
    'model.ask(memory, "Why?", max_new_tokens="5")',
    'model.ask(memory, ["Why?"], choice=["a", "b"])',
    'model.stream(memory, "Why?", prefixes="Because")',
    'model.answer("film.mp4", "Why?", frame_rate=2)',
    'model.answer("film.mp4", "Why?", fps="2")',
    'model.chat_session(memory).ask("Why?", temperatur=0.5)',
    'model.extend(memory, "more.mp4", rate=2)',
    'memory.extend("more.mp4", max_frame=2)',
    'videoxl.plan("film.mp4", maxframes=8)',
    'videoxl.load("tiny", devise="cpu")',
    'model.encode("film.mp4", maxframes=8)',
)


def test_every_setting_of_an_answer_is_a_keyword() -> None:
    given = get_type_hints(GenerationKeywords)
    fields = {field: get_type_hints(Generation)[field] for field in settable(Generation)}
    assert given.keys() == fields.keys()
    assert {name for name in given if given[name] != plain(fields[name])} == WIDER


def plain(kind: Any) -> Any:
    """A type without the marks of checks: a positive number may be whole or not."""
    return {int | float: float, int | float | None: float | None}.get(kind, kind)


def test_every_setting_of_sampling_is_a_keyword() -> None:
    given, fields = get_type_hints(SamplingKeywords), settable(Sampling)
    assert given.keys() == fields.keys() - {"times", "indices"}  # these name single frames: the argument frames
    hints = get_type_hints(Sampling)
    assert given == {name: plain(hints[name]) for name in given}


def test_keywords_of_functions() -> None:
    assert get_type_hints(AnswerKeywords).keys() == ENCODE_KEYWORDS | get_type_hints(GenerationKeywords).keys()
    encode = get_type_hints(VideoXL.encode)
    for name, kind in get_type_hints(AnswerKeywords).items():
        assert name not in encode or encode[name] in (kind, kind | None), name  # leaving it out stands for None
    own = {"context", "memory", "video", "committed_cache", "siglip", "given"}
    taken = inspect.signature(extend).parameters.keys() - own
    assert get_type_hints(ExtendKeywords).keys() == taken | get_type_hints(SamplingKeywords).keys()


@pytest.mark.slow
def test_a_misspelt_setting_is_found_by_mypy(tmp_path: Path) -> None:
    file = tmp_path / "asks.py"
    file.write_text(RIGHT + "\n".join(WRONG) + "\n")
    # with the cache that script/check leaves, in seconds
    config = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"))
    command = [sys.executable, "-m", "mypy", *config, "--no-error-summary", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    lines = {int(number) for number in re.findall(r"asks\.py:(\d+): error", found.stdout)}
    first = RIGHT.count("\n") + 1
    assert lines == set(range(first, first + len(WRONG))), found.stdout + found.stderr
