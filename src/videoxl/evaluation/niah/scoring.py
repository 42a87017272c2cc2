"""Decide whether an answer is right."""

from __future__ import annotations

import re
from collections.abc import Iterable

from videoxl.evaluation.choices import LETTERS, chosen_option
from videoxl.evaluation.niah.needles import Question
from videoxl.scenarios.time_spans import iou, parse_spans

MIN_IOU = 0.5
"""Least intersection over union of a right time span with the true one: R1@0.5 of temporal grounding."""
ARTICLES = ("a", "an", "the")


def is_right(question: Question, text: str, judge: str = "strict") -> bool:
    """Return whether ``text`` answers the question. ``judge``: see :class:`NiahSettings`; only choices use it.

    An open answer is right if it contains the words of the true answer in a row, and no rival that the question does
    not contain. A time (``when``) is right if the answer names one span that overlaps the true one by :data:`MIN_IOU`.
    """
    if question.options:
        number = question.options.index(question.answer)
        if judge == "released":
            return LETTERS[number] in text.split(")")[0]
        return chosen_option(text, question.options) == number
    if question.kind == "when":
        found = parse_spans(text)
        return len(found) == 1 and iou(found[0], parse_spans(question.answer)[0]) >= MIN_IOU
    return says(text, question.answer, rivals=question.rivals, question=question.text)


def says(text: str, answer: str, *, rivals: Iterable[str] = (), question: str = "") -> bool:
    """Return whether ``text`` contains the words of ``answer`` in a row, and no rival's.

    Case and articles do not matter. A rival that the answer or the question contains is no rival.
    """
    words, wanted, known = _words(text), _words(answer), _words(question)
    if not _contains(words, wanted):
        return False
    others = [_words(rival) for rival in rivals]
    return not any(_contains(words, o) for o in others if not _contains(wanted, o) and not _contains(known, o))


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.casefold()) if word not in ARTICLES]


def _contains(words: list[str], part: list[str]) -> bool:
    return bool(part) and any(words[n : n + len(part)] == part for n in range(len(words) - len(part) + 1))
