"""Multiple choice: the lettered lines of a question, and which of them an answer means."""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def lettered(options: Sequence[str]) -> str:
    """One line per option: ``A. a red star``. Raises ``ValueError`` for none, or more than there are letters."""
    if not 0 < len(options) <= len(LETTERS):
        raise ValueError(f"a choice has 1 to {len(LETTERS)} options, got {len(options)}")
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))


def chosen_option(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer chooses, from 0; None when it chooses none, or more than one.

    In this order: a letter that is said to be the answer (``The answer is (B)``, ``Option C``), a letter in brackets, a
    letter that begins the text (``B``, ``b) ...``, ``B. a red star``; before other words only with its mark, for "A
    red star" begins with a word), an option's own words.
    """
    letters = LETTERS[: len(options)]
    told = text.strip()
    for pattern in _patterns(letters):
        found = {match.upper() for match in re.findall(pattern, told)}
        if len(found) == 1:
            return letters.index(found.pop())
        if found:
            return None
    return _named(told, options)


def _patterns(letters: str) -> tuple[str, ...]:
    capital, either = f"[{letters}]", f"[{letters}{letters.lower()}]"
    mark = r"[.):,\]]"
    said = r"(?i:\b(?:answer|option|choice)\b(?:\s+is)?\s*:?)"
    return (
        rf"{said}[\s\"'*(\[]*({capital})(?![\w'])(?!\s+[a-z])",
        rf"[(\[]({capital})[)\]]",
        rf"^[\"'*(\[\s]*({either})(?:{mark}|[\"'*\s]*$|\n)",
    )


def _named(told: str, options: Sequence[str]) -> int | None:
    """The one option whose words stand in the text; of options within others, the longest."""
    rest = told.casefold()
    found = []
    for option in sorted(options, key=len, reverse=True):
        words = rf"(?<!\w){re.escape(option.strip().casefold())}(?!\w)"
        if option.strip() and re.search(words, rest):
            found.append(options.index(option))
            rest = re.sub(words, " ", rest)
    return found[0] if len(found) == 1 else None
