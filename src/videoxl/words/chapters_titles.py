"""Titles of chapters: that of a slide where there is one, else the phrase that is said here and not elsewhere."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

from videoxl.cues import Cue, ScreenCue
from videoxl.words.chapters_topics import STOPWORDS, telling, words_of

MOST_WORDS = 3
"""A key phrase has at most so many."""
MOST_LETTERS = 80
LEAST_LETTERS, MOST_TITLE_WORDS = 3, 10
"""What a slide's title has at least and at most."""
LARGER = 1.25
"""A title's letters are so many times as high as those of most texts, or it is the only large text."""
UPPER = 0.45
"""A slide's title lies in this part of the picture."""
EVERYWHERE = 0.5
"""What is on screen for a larger share of the film is a logo, a name of a channel."""
_BETWEEN = re.compile(r"[.!?;:,()\[\]\"“”]\s*|\n| - | – ")


def letter_height(cue: ScreenCue) -> float:
    """Height of a line of a cue, as a share of the picture's."""
    return (cue.box[3] - cue.box[1]) / (cue.text.count("\n") + 1)


def slide_titles(cues: Sequence[Cue], duration: float) -> list[ScreenCue]:
    """The cues that are titles of slides: large letters in the upper part, a few words, not there all the time."""
    shown = [cue for cue in cues if isinstance(cue, ScreenCue)]
    if not shown:
        return []
    usual = median(letter_height(cue) for cue in shown)
    lasting: Counter[str] = Counter()
    for cue in shown:
        lasting[cue.text] += max(1, round(cue.end_s - cue.start_s))
    return [
        cue
        for cue in shown
        if letter_height(cue) >= LARGER * usual
        and cue.box[1] <= UPPER
        and sum(c.isalpha() for c in cue.text) >= LEAST_LETTERS
        and len(cue.text.split()) <= MOST_TITLE_WORDS
        and lasting[cue.text] <= EVERYWHERE * max(duration, 1.0)
    ]


def title_from_slides(titles: Sequence[ScreenCue], start_s: float, end_s: float) -> str | None:
    """The largest title of a slide that comes in the first half of a chapter."""
    middle = (start_s + end_s) / 2
    here = [cue for cue in titles if start_s - 1 <= cue.start_s < middle]
    if not here:
        return None
    best = max(here, key=lambda cue: (letter_height(cue), -cue.start_s))
    return shortened(" ".join(best.text.split()))


def key_phrases(texts: Sequence[str]) -> list[str | None]:
    """For the words of each chapter the phrase that tells it from the others best (tf-idf); None without words."""
    counted = [_phrases(text) for text in texts]
    spread = Counter(phrase for phrases in counted for phrase in phrases)
    found: list[str | None] = []
    for phrases in counted:
        best = max(
            phrases, key=lambda phrase: _score(phrase, phrases[phrase], spread[phrase], len(texts)), default=None
        )
        found.append(None if best is None else shortened(best[0].upper() + best[1:]))
    return found


def _score(phrase: str, count: int, chapters: int, total: int) -> tuple[float, int]:
    length = len(telling(phrase.split(" ")))
    rare = math.log((1 + total) / (chapters + 0.5))
    return count * rare * (1 + 0.5 * (length - 1)), length


def _phrases(text: str) -> Counter[str]:
    """Phrases of one to three words within a sentence that begin and end with a telling word."""
    counts: Counter[str] = Counter()
    for part in _BETWEEN.split(text):
        words = words_of(part)
        for length in range(1, MOST_WORDS + 1):
            for at in range(len(words) - length + 1):
                chosen = words[at : at + length]
                if telling(chosen[:1]) and telling(chosen[-1:]) and sum(w in STOPWORDS for w in chosen) <= 1:
                    counts[" ".join(chosen)] += 1
    return counts


def shortened(title: str) -> str:
    """At most :data:`MOST_LETTERS` letters, on one line."""
    title = " ".join(title.split())
    return title if len(title) <= MOST_LETTERS else title[: MOST_LETTERS - 1].rsplit(" ", 1)[0] + "…"
