"""Whether two readings are of one text, and whether a reading can be one at all.

A model that reads moving pictures wavers: ``0`` and ``O``, ``l`` and ``1`` change places from frame to frame. But a
score or a clock that goes on is another text, although only one letter of it changed.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher
from functools import lru_cache

ALIKE = str.maketrans(
    {"o": "0", "l": "1", "i": "1", "|": "1", "!": "1", "s": "5", "b": "8", "z": "2", "，": ",", "：": ":"}
)
"""What models take for one another, in small letters."""
SIMILAR = 0.8
"""Two texts are one if so much of them agrees."""
ALIKE_WORDS = 0.5
"""Readings of one word agree in so much."""
ANCHORS = 4
"""Letters at which the beginning of a window is looked for in the one before."""
CERTAIN = 0.97
"""Two readings that are surer and differ are of different texts."""
LEAST_OVERLAP = 6
"""Letters by which a window of a moving text overlaps the one before, at least."""
MISSING = "□■�"
"""What the models write in the place of a letter that they do not know."""
_WORD = re.compile(r"[^\W_]+")


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """``text`` without what readings of it waver in: case, spaces, marks, letters that look alike."""
    return "".join(c for c in text.lower().translate(ALIKE) if c.isalnum())


def same_text(a: str, b: str, confidence: float) -> bool:
    """Whether two readings, the less sure of which has ``confidence``, are of one text."""
    one, other = folded(a), folded(b)
    if one == other:
        return bool(one) or a == b
    if confidence >= CERTAIN or _numbers(one) != _numbers(other) or _another_word(a, b):
        return False
    return min(len(one), len(other)) > 3 and SequenceMatcher(None, one, other, autojunk=False).ratio() >= SIMILAR


def mended(text: str) -> str:
    """``text`` with digits for the letters that stand between digits, and the other way round: ``1o24``, ``0ver``."""
    text = re.sub(r"(?<=\d)[oO](?=\d)", "0", text)
    text = re.sub(r"(?<=\d)[lI|](?=\d)", "1", text)
    return re.sub(r"\b0(?=[a-z]{2})", "o", text)


def _numbers(text: str) -> list[str]:
    """Numbers; a single digit among letters is a letter that was taken for one."""
    return re.findall(r"(?<![^\W\d])\d+(?![^\W\d])|\d{2,}", text)


def _another_word(a: str, b: str) -> bool:
    """Whether a word of one text stands where the other has a quite different one: ``part 5``, ``part 6``.

    A model that wavers takes letters for others that look alike; it reads no word for another.
    """
    ours, theirs = a.lower().split(), b.lower().split()
    changes = SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()
    pairs = [
        (folded(" ".join(ours[i:j])), folded(" ".join(theirs[k:m]))) for t, i, j, k, m in changes if t == "replace"
    ]
    return any(
        one and other and SequenceMatcher(None, one, other, autojunk=False).ratio() < ALIKE_WORDS
        for one, other in pairs
    )


def grown(old: str, new: str) -> bool:
    """Whether ``new`` is ``old`` with something written behind it."""
    one, other = folded(old), folded(new)
    if len(other) <= len(one) or not one:
        return False
    return other.startswith(one) or (len(one) > 3 and same_text(one, other[: len(one)], 0.0))


def rolled_on(text: str, previous: str, window: str, least: float) -> tuple[str, bool] | None:
    """Continue ``text``, which ends with ``previous``, by the next ``window`` of a text that moves to the left.

    Returns the longer text, and whether something of ``previous`` is gone. None where the end of ``previous`` is not
    the beginning of ``window``, over a share of ``least`` of the shorter one. The letters at the edges do not count:
    they may have been cut.
    """
    old, old_at = _letters_at(previous)
    new, new_at = _letters_at(window)
    old = old[:-1]
    shortest = max(LEAST_OVERLAP, least * min(len(old), len(new)))
    for cut, skipped in _anchors(old, new):
        rest, begin = old[cut:], new[skipped : skipped + len(old) - cut]
        if min(len(rest), len(begin)) < shortest:
            continue
        if SequenceMatcher(None, rest, begin, autojunk=False).ratio() >= SIMILAR:
            return text[: len(text) - len(previous) + old_at[cut]] + window[new_at[skipped] :], cut > skipped
    return None


def _letters_at(text: str) -> tuple[str, list[int]]:
    """Letters and digits of a text, folded, and where they are in it."""
    found = [(c.lower().translate(ALIKE)[0], at) for at, c in enumerate(text) if c.isalnum()]
    return "".join(c for c, _ in found), [at for _, at in found]


def _anchors(old: str, new: str) -> list[tuple[int, int]]:
    """Where the first letters of ``new`` are in ``old``: (place in old, letters of new left out), earliest first."""
    found = []
    for skipped in range(ANCHORS):
        start, at = new[skipped : skipped + 4], -1
        while len(start) == 4 and (at := old.find(start, at + 1)) >= 0:
            found.append((at, skipped))
    return sorted(found)


def unreadable(text: str) -> bool:
    """Whether a text shows that the models do not know its script: its letters are those of several, or absurd."""
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return any(c in MISSING for c in text)
    odd = sum(len(word) for word in _WORD.findall(text) if _odd(word))
    odd += sum(c in MISSING for c in text)
    return 2 * odd >= len(letters)


def _odd(word: str) -> bool:
    """Letters of several alphabets in one word, or small and capital ones by turns: ``pUBeT``, ``Cbe3Tnx``."""
    alphabets = {unicodedata.name(c, "").split(" ")[0] for c in word if c.isalpha()}
    if "CYRILLIC" in alphabets or {"LATIN", "GREEK"} <= alphabets:
        return True
    if "GREEK" in alphabets:
        return len(word) > 2  # single ones stand for quantities
    turns = len(re.findall(r"(?<=[a-z])[A-Z]+(?=[a-z]|$)", word))
    inside = len(re.findall(r"(?<=[A-Za-z])\d+(?=[a-z])", word)) + bool(re.match(r"\d[a-z]{3}", word))
    return turns >= 2 or (turns == 1 and len(word) <= 5 and not word[0].isupper()) or inside >= 1


def lacks_letters(text: str, width: float, height: float) -> bool:
    """Whether a line is much longer than its letters are, as where Japanese kana were left out. Only for CJK."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    if 2 * wide < len(text):
        return False
    return (wide + 0.5 * (len(text) - wide)) < 0.55 * width / max(height, 1.0)
