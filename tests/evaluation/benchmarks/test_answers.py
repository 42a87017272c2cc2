"""Rules that read answers, against plain implementations of what is said about them, on 500 generated answers each."""

from __future__ import annotations

import random
import re

import pytest

from videoxl.evaluation.benchmarks import answers

PIECES = (
    *("A", "B", "C", "D", "E", "F", "a", "b", "c", "(A)", "(B)", "(C)", "B.", "C.", "D)", "A:", "B ", "A. a dog"),
    *("Best option: (", "Best answer: ", "The answer is", "The best answer is", "The best option is", "answer is"),
    *("I choose", "The correct option is", "option", "because", "a cat", "It is", "the", "dog", "Answer", "Both"),
    *("Final Answer:", "12,5", "3.5", ".", ",", "!", "?", "\n", "\t", "  ", "'", '"', ")", "(", ";", "_", "-", ""),
    *("答案是", "Can", "no", "yes", "Yes", "No", "one two three four five six seven eight nine ten eleven"),
)


def generated(seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        "".join(rng.choice(PIECES) + rng.choice(["", " ", " "]) for _ in range(rng.randint(0, 7))) for _ in range(500)
    ]


def test_mlvu_takes_the_character_before_the_first_bracket():
    for text in generated(1):
        said = text.strip()
        head, bracket, _ = said.partition(")")
        assert answers.before_bracket(text) == (head[-1:] if bracket else said)


@pytest.mark.parametrize(
    ("phrases", "letters"),
    [(answers.PHRASES, "ABCDE"), (answers.JOINED_PHRASES, "ABCD"), (answers.V2_PHRASES, "ABCDEFGH")],
    ids=["longvideobench", "videomme", "videomme-v2"],
)
def test_the_first_letter_that_occurs_once_phrases_are_removed(phrases, letters):
    for text in generated(2):
        rest = text
        for phrase in phrases:
            rest = "".join(rest.split(phrase))
        found = re.findall(f"[{letters}]", rest)
        assert answers.first_capital(text, letters, phrases) == (found[0] if found else None)


@pytest.mark.parametrize(
    ("text", "released", "separate"),
    [
        ("Best option: C", "B", "C"),  # of "Best": two phrases stand in one text where a comma is missing
        ("The best answer is D.", "D", "D"),
        ("The answer (A)", "A", "A"),
        ("none", None, None),
        ("Cannot say", "C", "C"),
    ],
)
def test_joined_phrases_are_kept_as_they_were_published(text, released, separate):
    assert answers.first_capital(text, "ABCD", answers.JOINED_PHRASES) == released
    assert answers.first_capital(text, "ABCD", answers.PHRASES) == separate


def plain_lvbench(text: str) -> str | None:
    """Marks next to a space vanish, all others become a space; if a number has a comma in it, all of them vanish."""
    said = text.strip()
    if re.match(r"[a-eA-E]\.\s*[^\n]+\Z", said):
        return said[0].upper()
    said = said.replace("\n", " ").replace("\t", " ").strip()
    all_vanish = any(re.match(r"\d,\d", said[n:]) for n in range(len(said)))
    kept = said
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        vanishes = all_vanish or any(
            c == mark and " " in (said[n - 1 : n], said[n + 1 : n + 2]) for n, c in enumerate(said)
        )
        kept = kept.replace(mark, "" if vanishes else " ")
    stops = [n for n, c in enumerate(kept) if c == "." and not kept[n + 1 : n + 2].isdigit()]
    kept = "".join(c for n, c in enumerate(kept) if n not in stops)
    alone = [word for word in re.findall(r"\w+", kept.lower()) if word in set("abcde")]
    return alone[0].upper() if alone else None


def test_lvbench_takes_the_first_letter_that_stands_alone():
    for text in generated(3):
        assert answers.lvbench_released(text) == plain_lvbench(text), text
    assert answers.lvbench_released("It is a cat, so C") == "A"  # the article is taken for an option
    assert answers.lvbench_released("The answer is (D) TV show") == "D"
    assert answers.lvbench_released("TV show") is None


def plain_lmms(text: str, letters: str) -> str | None:
    """Every place of every letter with its rank; the last place of the highest rank counts."""
    said = text.strip()
    for mark in (",", ".", "!", "?", ";", ":", "'", '"'):
        said = said.strip(mark)
    padded, said = f" {said} ", said.strip()
    phrases = [
        "the answer is",
        "answer is",
        "the correct answer is",
        "correct answer is",
        "the best answer is",
        "best answer is",
        "the correct option is",
        "correct option is",
        "the best option is",
        "best option is",
        "the choice is",
        "choice is",
        "the correct choice is",
        "correct choice is",
        "i choose",
        "i select",
        "i pick",
        "my answer is",
        "my choice is",
        "옵션",
        "정답은",
        "답은",
        "답:",
        "答案是",
        "答案为",
        "选",
        "答えは",
    ]
    ranked: list[tuple[int, int, str]] = []
    for place, letter in enumerate(padded):
        if letter not in letters:
            continue
        ranked.append((0, place, letter))
        if padded[place - 1] == "(" and padded[place + 1] == ")":
            ranked.append((6, place - 1, letter))
        for mark, rank in ((".", 5), (":", 4), (")", 3), (" ", 2)):
            if padded[place + 1] == mark:
                ranked.append((rank, place, letter))
        for phrase in phrases:
            first = padded.lower().find(phrase)
            if first >= 0 and place >= first + len(phrase) and letter not in padded[first + len(phrase) : place]:
                ranked.append((7, place, letter))
    if said[:1] in letters and said and not said[1:2].isalpha():
        ranked.append((10, 0, said[0]))
    if said[-1:] in letters and said and not said[-2:-1].isalpha():
        ranked.append((9, len(padded), said[-1]))
    return max(ranked)[2] if ranked and text.strip() else None


@pytest.mark.parametrize("letters", ["ABCD", "ABCDEFGH"])
def test_lmms_eval_takes_the_last_letter_of_the_highest_rank(letters):
    for text in generated(4):
        assert answers.lmms_letter(text, letters) == plain_lmms(text, letters), text
    assert answers.lmms_letter("First A. Then (B), but the answer is C", "ABCD") == "C"
    assert answers.lmms_letter("", "ABCD") is None


def plain_egoschema(text: str, options: list[str]) -> str | None:
    said = text
    for mark in (",", ".", "!", "?", ";", ":", "'"):
        said = said.strip(mark)
    said = " " + said + " "
    last = {}
    for form in ("({})", "{} ", "{}."):
        for letter in "ABCDE":
            wanted = form.format(letter)
            places = [n for n in range(len(said)) if said.startswith(wanted, n)]
            if places:
                last[wanted] = (places[-1], letter)
    if not last and len(said.split()) > 5:
        for letter, option in zip("ABCDE", options):
            if option.lower() in said.lower():
                last[option] = (said.lower().rindex(option.lower()), letter)
    return min(last.values(), key=lambda one: one[0])[1] if last else None


def test_egoschema_takes_the_form_whose_last_place_comes_first():
    options = ["a cat", "dog", "cow because", "the", "It is"]
    for text in generated(5):
        assert answers.egoschema_lmms(text, options, "ABCDE") == plain_egoschema(text, options), text
    assert answers.egoschema_lmms("B is right, not C", options, "ABCDE") == "B"
    assert answers.egoschema_lmms("no letter, but six words with dog", options, "ABCDE") == "B"


def test_counts_are_all_digits_joined():
    for text in generated(6):
        assert answers.digits(text) == "".join(c for c in text if c.isdigit())
