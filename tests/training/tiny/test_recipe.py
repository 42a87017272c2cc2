"""The recipe of the embedded models, every step of it for a few steps only."""

from __future__ import annotations

import json

import pytest

import videoxl
from videoxl.config import TINY, TINY_V1
from videoxl.training.tiny.accuracy import Asked, Mode, ask_about_films, shares
from videoxl.training.tiny.recipe import RECIPES, Recipe


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_recipes_lead_from_nothing_to_models_that_answer(tmp_path):
    said: list[str] = []
    recipe = Recipe(tmp_path, scale=0.004, say=said.append)
    for name, last in ((TINY, "stage-4.6"), (TINY_V1, "v1-long")):
        folder = recipe.follow(RECIPES[name])
        assert folder == tmp_path / last
        engine = videoxl.load(str(folder / "model"))
        asked = list(ask_about_films(engine, {"": Mode()}, groups=4, films=1, questions=2))
        assert len(asked) == 2
    assert json.loads((tmp_path / "stage-4" / "done.json").read_text()) == {"seed": 0, "scale": 0.004}
    before = len(said)
    recipe.follow(RECIPES[TINY])  # nothing is done twice
    assert said[before:] == [f"{name}: done before" for name in RECIPES[TINY]]
    with pytest.raises(ValueError, match="was made with"):
        Recipe(tmp_path, scale=0.5, say=said.append).follow(RECIPES[TINY])


def test_only_the_whole_true_answer_is_right():
    def asked(kind: str, answer: str) -> Asked:
        return Asked("full", 8, kind, "What color is the star?", answer, "red")

    assert asked("color", " red\n").right
    assert not asked("color", "red star").right
    two = [asked("color", "red"), asked("color", "blue"), asked("at", "red")]
    assert shares(two) == {("full", 8, "color"): 0.5, ("full", 8, "at"): 1.0}
    assert shares(two, by=("mode",)) == {("full",): 2 / 3}
