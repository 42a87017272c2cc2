"""Multiple choice: letter the options of a question, and find the option that an answer chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def lettered(options: Sequence[str]) -> str:
    """Write a line per option: ``A. a red star``. Raises ``ValueError`` for none, or more than there are letters."""
    if not 0 < len(options) <= len(LETTERS):
        raise ValueError(f"a choice has 1 to {len(LETTERS)} options, got {len(options)}")
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))


def chosen_option(text: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that an answer chooses; None if it chooses none or more than one.

    The first of these that occurs counts:

    1. a letter that is said to be the answer: ``The answer is (B)``, ``Option C``;
    2. a letter in brackets;
    3. a letter that begins the text: ``B``, ``b) ...``, ``B. a red star``. Before other words it needs a mark behind
       it, since "A red star" begins with a word;
    4. an option's own words.
    """
    letters = LETTERS[: len(options)]
    answer = text.strip()
    for pattern in _patterns(letters):
        found = {match.upper() for match in re.findall(pattern, answer)}
        if len(found) == 1:
            return letters.index(found.pop())
        if found:
            return None
    return _named(answer, options)


def _patterns(letters: str) -> tuple[str, ...]:
    capital, either = f"[{letters}]", f"[{letters}{letters.lower()}]"
    mark = r"[.):,\]]"
    said = r"(?i:\b(?:answer|option|choice)\b(?:\s+is)?\s*:?)"
    return (
        rf"{said}[\s\"'*(\[]*({capital})(?![\w'])(?!\s+[a-z])",
        rf"[(\[]({capital})[)\]]",
        rf"^[\"'*(\[\s]*({either})(?:{mark}|[\"'*\s]*$|\n)",
    )


def _named(answer: str, options: Sequence[str]) -> int | None:
    """Return the only option whose words stand in the answer; of options within others, the longest."""
    rest = answer.casefold()
    found = []
    for option in sorted(options, key=len, reverse=True):
        words = rf"(?<!\w){re.escape(option.strip().casefold())}(?!\w)"
        if option.strip() and re.search(words, rest):
            found.append(options.index(option))
            rest = re.sub(words, " ", rest)
    return found[0] if len(found) == 1 else None
