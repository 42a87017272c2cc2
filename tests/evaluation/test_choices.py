from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoxl.evaluation.choices import LETTERS, chosen_option, lettered

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
