from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoxl.evaluation.choices import LETTERS, chosen_option, lettered

FORMS = json.loads(Path(__file__).with_name("answer_forms.json").read_text(encoding="utf-8"))
"""Texts that choose an option, whose letter stands in the place of ``{}``, and texts that choose none."""
OPTIONS = ["a red star", "a red card with 7", "a blue star", "nothing"]


def test_options_stand_behind_their_letters():
    assert lettered(["yes", "no"]) == "A. yes\nB. no"
    with pytest.raises(ValueError, match="1 to 26"):
        lettered([])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1),
        ("b", 1),
        (" B.", 1),
        ("(B)", 1),
        ("B) a red card with 7", 1),
        ("**C**", 2),
        ("C. a blue star", 2),
        ("C: a blue star", 2),
        ("The answer is C", 2),
        ("The answer is (C).", 2),
        ("Answer: D", 3),
        ("answer is option D.", 3),
        ("Option A", 0),
        ("The correct choice is: A.", 0),
        ("I believe that (D) is right", 3),
        ("D\nbecause nothing is shown", 3),
        ("A red star", 0),  # the article, not the letter; here both agree
        ("A blue star", 2),  # the article, not the letter
        ("a blue star", 2),
        ("It shows a blue star.", 2),
        ("A red card with 7", 1),
        ("The answer is a blue star", 2),
        ("The answer is A blue star", 2),
        ("", None),
        ("E", None),
        ("I do not know", None),
        ("A or B", None),
        ("(A) or (B)", None),
        ("a red star or a blue star", None),
        ("Banana", None),
        ("!!!!!!!!", None),
        ("Bravo", None),
    ],
)
def test_the_option_an_answer_means(text, expected):
    assert chosen_option(text, OPTIONS) == expected


@pytest.mark.parametrize("form", FORMS["chooses"])
def test_forms_of_an_answer(form):
    options = ["17 cups", "40 cups", "52 cups", "99 cups", "one cup", "two cups", "three cups"]
    assert [chosen_option(form.format(letter), options) for letter in "ABCD"] == [0, 1, 2, 3]


@pytest.mark.parametrize("form", FORMS["small_letters"])
def test_forms_of_an_answer_in_small_letters(form):
    assert [chosen_option(form.format(letter), OPTIONS) for letter in "abcd"] == [0, 1, 2, 3]


@pytest.mark.parametrize("text", FORMS["chooses_none"])
def test_what_chooses_no_option_or_several_is_none(text):
    assert chosen_option(text, ["17 cups", "40 cups", "52 cups", "99 cups"]) is None


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("Yes", ["Yes", "No"], 0),
        ("no.", ["Yes", "No"], 1),
        ("Yes, there is no star.", ["Yes", "No"], 0),
        ("No, that is what yes men say.", ["Yes", "No"], 1),
        ("The answer is no", ["Yes", "No"], 1),
        ("False", ["True", "False"], 1),
        ("B. No", ["Yes", "No"], 1),
        ("It is not a cat but a dog", ["a cat", "a dog"], 1),
        ("It is a cat, not a dog.", ["a cat", "a dog"], 0),
        ("There isn't a cat.", ["a cat", "a dog"], None),
        ("A RED STAR", ["a blue star", "A red star."], 1),
        ("It shows  a\nred star", ["a blue star", "A red star."], 1),
        ("B red star", ["blue star", "red star"], 1),
        ("A red star", ["blue star", "red star"], 1),
        ("A. B", ["B", "A"], 0),
        ("3.5 meters", ["3.5 meters", "5 meters"], 0),
        ("-5", ["5", "-5"], 1),
        ("-5", ["5", "6"], None),
        ("12", ["1", "2", "12"], 2),
        ("2*3", ["2*3", "2*4"], 0),
        ("C++", ["Java", "C++"], 1),
        ("none of the above", ["a cat", "None of the above"], 1),
        ("The answer is I.", [str(n) for n in range(100, 110)], 8),
        ("I think it is shown", [str(n) for n in range(100, 110)], None),
        ("The label says I.", [str(n) for n in range(100, 110)], 8),
    ],
)
def test_the_options_own_words(text, options, expected):
    assert chosen_option(text, options) == expected


def official_first_letter(text: str) -> str:
    """As lmms-eval scores Video-MME and MLVU: the first capital letter beside known phrases counts."""
    for phrase in ("The best answer is", "The correct answer is", "The answer is", "The answer"):
        text = text.strip().replace(phrase, "")
    found = re.search("[ABCD]", text)
    return found[0] if found else ""


def official_last_candidate(text: str) -> str | None:
    """As lmms-eval scores LongVideoBench and MMMU: ``(B)``, else ``B ``, else ``B.``; of several the last."""
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", "{} ", "{}."):
        places = {text.rfind(form.format(letter)): letter for letter in "ABCD" if form.format(letter) in text}
        if places:
            return places[max(places)]
    return None


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "B.",
        "(B)",
        "B. 40 cups",
        "(B) 40 cups",
        "The answer is B",
        "The answer is B.",
        "The answer is (B).",
        "The correct answer is (B) 40 cups.",
        "The best answer is B",
        "The answer is B. 40 cups",
        "B 40 cups",
        "B is correct",
        "The answer is B because it is shown",
    ],
)
def test_the_official_scorers_read_the_same(text):
    ours = chosen_option(text, ["17 cups", "40 cups", "52 cups", "99 cups"])
    assert ours is not None
    assert LETTERS[ours] == official_first_letter(text) == official_last_candidate(text) == "B"


def test_options_within_others_and_equal_letters():
    assert chosen_option("it is red wine", ["red", "red wine"]) == 1
    assert chosen_option("it is red", ["red", "red wine"]) == 0
    assert chosen_option("E", ["1", "2", "3", "4", "5"]) == 4
    assert chosen_option("there are 12", ["1", "2", "12"]) == 2


@given(st.text(max_size=60))
def test_any_text_gives_an_option_or_none(text):
    assert chosen_option(text, OPTIONS) in (None, 0, 1, 2, 3)


@given(
    st.lists(
        st.text("abcxyz ", min_size=2, max_size=8).map(str.strip).filter(bool), min_size=1, max_size=26, unique=True
    )
)
def test_every_letter_is_understood(options):
    for number, letter in enumerate(LETTERS[: len(options)]):
        assert chosen_option(letter, options) == number
        assert chosen_option(f"The answer is ({letter}).", options) == number
