"""Whether an answer is right."""

from __future__ import annotations

import re
from collections.abc import Iterable

from videoxl.evaluation.choices import LETTERS, chosen_option
from videoxl.evaluation.niah.needles import Asked
from videoxl.scenarios.time_spans import iou, parse_spans

LEAST_OVERLAP = 0.5
"""Of a time span with the true one, intersection over union: R1@0.5 of temporal grounding."""
ARTICLES = ("a", "an", "the")


def is_right(asked: Asked, text: str, judge: str = "strict") -> bool:
    """``judge``: see :class:`NiahSettings`; it only concerns questions with options.

    Open answers are right when they hold the words of the answer in a row and none of a rival that the question does
    not hold; times (``when``) when the one span they name overlaps the true one by half, intersection over union.
    """
    if asked.options:
        number = asked.options.index(asked.answer)
        return LETTERS[number] in text.split(")")[0] if judge == "released" else _chosen(asked, text) == number
    if asked.kind == "when":
        found = parse_spans(text)
        return len(found) == 1 and iou(found[0], parse_spans(asked.answer)[0]) >= LEAST_OVERLAP
    return says(text, asked.answer, rivals=asked.rivals, question=asked.text)


def _chosen(asked: Asked, text: str) -> int | None:
    return chosen_option(text, asked.options)


def says(text: str, answer: str, *, rivals: Iterable[str] = (), question: str = "") -> bool:
    """Whether ``text`` holds the words of ``answer`` in a row, and no rival's; case and articles do not matter."""
    told, wanted, known = _words(text), _words(answer), _words(question)
    if not _holds(told, wanted):
        return False
    others = [_words(rival) for rival in rivals]
    return not any(_holds(told, o) for o in others if not _holds(wanted, o) and not _holds(known, o))


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.casefold()) if word not in ARTICLES]


def _holds(words: list[str], part: list[str]) -> bool:
    return bool(part) and any(words[n : n + len(part)] == part for n in range(len(words) - len(part) + 1))
