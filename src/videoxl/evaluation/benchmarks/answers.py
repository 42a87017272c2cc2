"""How published evaluations read the letter in an answer, one function per rule.

They are kept as they were published, mistakes included, since published numbers hold them. :func:`chosen_option` in
:mod:`videoxl.evaluation.choices` is the careful reading that every result has beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
"""What is removed before a letter is looked for, in LongVideoBench and TimeScope."""
JOINED_PHRASES = (*PHRASES[:4], PHRASES[4] + PHRASES[5], PHRASES[6] + PHRASES[7])
"""The same in Video-MME and LongTimeScope, where two commas are missing: "Best option: C" there is B, of "Best"."""
V2_PHRASES = (*PHRASES[:6], "Final Answer:", *PHRASES[6:], "Answer:", "Option:")
"""The same in Video-MME-v2."""


def before_bracket(text: str) -> str:
    """MLVU as released: the character before the first closing bracket; without one, all of the text."""
    said = text.strip()
    place = said.find(")")
    return said if place < 0 else said[max(place - 1, 0) : place]


def first_capital(text: str, letters: str, phrases: Sequence[str]) -> str | None:
    """Remove phrases, and return the first of the letters that occurs anywhere, even within a word."""
    for phrase in phrases:
        text = text.replace(phrase, "")
    return next((character for character in text if character in letters), None)


_MARKS = (*';/[]"{}()=+\\_-><@`,?!',)
_LEADING = re.compile(r"([A-Ea-e])\.\s*.+")


def lvbench_released(text: str) -> str | None:
    """LVBench as released: a letter with a full stop that begins the text, or else the first letter A to E, capital or
    small, that stands alone once marks are taken out. So "It is a cat" chooses A.
    """
    said = text.strip()
    if leading := _LEADING.fullmatch(said):
        return leading[1].upper()
    said = said.replace("\n", " ").replace("\t", " ")
    number_with_comma = re.search(r"\d,\d", said)
    plain = said
    for mark in _MARKS:
        beside_space = f"{mark} " in said or f" {mark}" in said
        plain = plain.replace(mark, "" if beside_space or number_with_comma else " ")
    plain = re.sub(r"\.(?!\d)", "", plain, count=32)
    alone = re.search(r"\b[a-e]\b", plain.strip("'").strip('"').strip().lower())
    return alone[0].upper() if alone else None


_ANSWER_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is"),
    *("best answer is", "the correct option is", "correct option is", "the best option is", "best option is"),
    *("the choice is", "choice is", "the correct choice is", "correct choice is", "my answer is", "my choice is"),
    *("i choose", "i select", "i pick", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))


def lmms_letter(text: str, letters: str) -> str | None:
    """The shared reading of lmms-eval 0.7: of all places where a letter stands in a known form, the last of the form
    that ranks highest. A letter that begins the text ranks first, then one that ends it, one behind a phrase such as
    "the answer is", and the forms ``(A)``, ``A.``, ``A:``, ``A)`` and ``A`` before a space.
    """
    said = text.strip()
    for mark in ",.!?;:'\"":
        said = said.strip(mark)
    padded, bare = f" {said} ", said.strip()
    found = [
        (rank, padded.rfind(form.format(letter)), letter)
        for form, rank in _FORMS
        for letter in letters
        if form.format(letter) in padded
    ]
    lower = padded.lower()
    for phrase in _ANSWER_PHRASES:
        if phrase in lower:
            behind = lower.find(phrase) + len(phrase)
            found += [(7, padded.find(c, behind), c) for c in letters if c in padded[behind:]]
    if bare:
        found += [(10, 0, bare[0])] * (bare[0] in letters and not bare[1:2].isalpha())
        found += [(9, len(padded) - 1, bare[-1])] * (bare[-1] in letters and not bare[-2:-1].isalpha())
    if not found:
        found = [(0, padded.rfind(letter), letter) for letter in letters if letter in padded]
    return max(found, key=lambda one: one[:2])[2] if found and text.strip() else None


def egoschema_lmms(text: str, options: Sequence[str], letters: str) -> str | None:
    """EgoSchema in lmms-eval: of the forms ``(A)``, ``A`` before a space and ``A.``, the one whose last place comes
    first; without any, in an answer of more than five words, an option's own text.
    """
    said = text
    for mark in ",.!?;:'":
        said = said.strip(mark)
    said = f" {said} "
    forms = [form.format(letter) for form in ("({})", "{} ", "{}.") for letter in letters]
    found = [(said.rfind(form), form.strip("(). ")) for form in forms if form in said]
    if not found and len(said.split()) > 5:
        lower = said.lower()
        found = [(lower.rfind(o.lower()), letter) for letter, o in zip(letters, options) if o.lower() in lower]
    return min(found, key=lambda one: one[0])[1] if found else None


def digits(text: str) -> str:
    """OVO-Bench's counts: all digits of the text, joined."""
    return "".join(re.findall(r"\d+", text))
