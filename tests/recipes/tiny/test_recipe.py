"""The recipe of the embedded models, every step of it for a few steps only."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from recipes.tiny.accuracy import Asked, Mode, ask_about_films, shares
from recipes.tiny.recipe import RECIPES, Recipe, Step
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

import videoxl
from videoxl.config import TINY, TINY_QWEN3, TINY_V1
from videoxl.inference.loading import embedded_folder

WEIGHTS = "model/model.safetensors"
SCALE = 0.001
"""One step of each phase, some more of pictures, and two films of 16 groups at most."""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_recipes_lead_from_nothing_to_models_that_answer(tmp_path):
    said: list[str] = []
    recipe = Recipe(tmp_path, scale=SCALE, shares=1, notify=said.append)
    shared = replace(recipe, shares=2)
    assert recipe.follow(RECIPES[TINY]) == tmp_path / TINY
    for name, step in RECIPES[TINY_V1].items():
        (shared if name == "v1-long" else recipe).do(name, step)
    assert recipe.follow(RECIPES[TINY_QWEN3]) == tmp_path / TINY_QWEN3
    for name in (TINY, TINY_V1, TINY_QWEN3):
        engine = videoxl.load(str(tmp_path / name / "model"))
        asked = list(ask_about_films(engine, {"": Mode()}, groups=4, films=1, questions=2))
        assert len(asked) == 2
    for name, processes in (("stage-4", 1), ("v1-long", 2)):
        facts = {"seed": 0, "scale": SCALE, "shares": processes}
        assert json.loads((tmp_path / name / "done.json").read_text()) == facts
        complete = next((tmp_path / name).glob("checkpoint-*/complete.json"))
        assert json.loads(complete.read_text())["facts"]["processes"] == processes
    before = len(said)
    recipe.follow(RECIPES[TINY])  # nothing is done twice
    assert said[before:] == [f"{name}: done before" for name in RECIPES[TINY]]
    with pytest.raises(ValueError, match="was made with"):
        Recipe(tmp_path, scale=0.5, notify=said.append).follow(RECIPES[TINY])
    again = Recipe(tmp_path / "again", scale=SCALE, notify=said.append)
    for name in ("pictures", "language"):  # the same, whatever was drawn before
        again.do(name, RECIPES[TINY][name])
        assert (again.output / name / WEIGHTS).read_bytes() == (tmp_path / name / WEIGHTS).read_bytes(), name
    assert recipe.tiny == tmp_path / TINY / "model"
    assert again.tiny == embedded_folder(TINY)  # where tiny-v1 has its SigLIP from, if none was made


def _meet(recipe: Recipe, folder: Path) -> None:
    """Ends only when the other one is there too."""
    (folder / "here").touch()
    while not all((recipe.output / name / "here").exists() for name in "bc"):
        time.sleep(0.01)


def _look_back(recipe: Recipe, folder: Path) -> None:
    done = sorted(path.parent.name for path in recipe.output.glob("*/done.json"))
    (folder / "before").write_text(" ".join(done))


def _fail_beside_it(recipe: Recipe, folder: Path) -> None:
    while not (recipe.output / "long" / "began").exists():
        time.sleep(0.01)
    raise OSError("no space left")


def _stop_when_told(recipe: Recipe, folder: Path) -> None:
    """As training does: a signal ends it, after what there is was saved."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    (folder / "began").touch()
    while not stopped:
        time.sleep(0.01)
    (folder / "saved").touch()
    raise InterruptedError("a signal came")


@pytest.mark.slow
def test_steps_are_done_side_by_side_each_after_those_it_needs(tmp_path):
    steps = {
        "a": Step(_look_back),
        "b": Step(_meet, after=("a",)),
        "c": Step(_meet),
        "d": Step(_look_back, after=("b", "c")),
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "done.json").write_text('{"seed": 0, "scale": 1.0, "shares": 1}')
    assert Recipe(tmp_path).follow(steps, processes=2) == tmp_path / "d"
    assert (tmp_path / "d" / "before").read_text() == "a b c"
    assert not (tmp_path / "a" / "before").exists()  # what is done is not done again


@pytest.mark.slow
def test_a_step_that_fails_ends_those_beside_it(tmp_path, capfd):
    steps = {
        "long": Step(_stop_when_told),
        "failing": Step(_fail_beside_it),
        "never": Step(_look_back, after=("failing",)),
    }
    with pytest.raises(RuntimeError, match="failing ended with 1"):
        Recipe(tmp_path).follow(steps, processes=2)
    assert "no space left" in capfd.readouterr().err
    assert (tmp_path / "long" / "saved").exists()
    assert not (tmp_path / "never").exists()
    assert not any((tmp_path / name / "done.json").exists() for name in ("long", "failing"))


def _add_up(recipe: Recipe, folder: Path) -> None:
    with PartialState(cpu=True).local_main_process_first():
        pass
    rank = torch.distributed.get_rank()
    total = torch.tensor(1 + rank)
    torch.distributed.all_reduce(total)
    recipe.notify(f"{rank} speaks")
    (folder / str(rank)).write_text(str(total.item()))
    torch.distributed.destroy_process_group()


def _fail_second(recipe: Recipe, folder: Path) -> None:
    if os.environ["RANK"] == "1":
        raise OSError("no space left")


@pytest.mark.slow
def test_a_shared_step_is_done_by_processes_that_know_of_one_another(tmp_path, capfd):
    steps = {"shared": Step(_add_up, shared=True), "after": Step(_look_back, after=("shared",))}
    recipe = Recipe(tmp_path, shares=2)
    recipe.follow(steps)
    assert {path.name: path.read_text() for path in (tmp_path / "shared").glob("?")} == dict.fromkeys("01", "3")
    assert json.loads((tmp_path / "shared" / "done.json").read_text()) == {"seed": 0, "scale": 1.0, "shares": 2}
    assert (tmp_path / "after" / "before").read_text() == "shared"
    said = capfd.readouterr().out
    assert "0 speaks" in said
    assert "1 speaks" not in said
    with pytest.raises(ValueError, match="was made with"):  # sums would be others
        Recipe(tmp_path, shares=1).follow(steps)


@pytest.mark.slow
def test_a_share_that_fails_leaves_its_step_undone(tmp_path, capfd):
    with pytest.raises(ChildFailedError):
        Recipe(tmp_path).follow({"failing": Step(_fail_second, shared=True)})
    assert "no space left" in capfd.readouterr().err
    assert not (tmp_path / "failing" / "done.json").exists()


def test_only_the_whole_true_answer_is_right():
    def asked(kind: str, answer: str) -> Asked:
        return Asked("full", 8, kind, "What color is the star?", answer, "red")

    assert asked("color", " red\n").right
    assert not asked("color", "red star").right
    two = [asked("color", "red"), asked("color", "blue"), asked("at", "red")]
    assert shares(two) == {("full", 8, "color"): 0.5, ("full", 8, "at"): 1.0}
    assert shares(two, by=("mode",)) == {("full",): 2 / 3}
