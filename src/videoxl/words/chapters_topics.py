"""Where the topic changes in what is said and written: words before a moment against words after it (as TextTiling)."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from videoxl.cues import Cue

Embed = Callable[[Sequence[str]], npt.NDArray[np.floating]]
"""Sentence vectors [texts, width] of texts."""
WINDOW_WORDS = 60
"""Words on either side of a moment that are compared."""
LEAST_WORDS = 12
"""With fewer words on a side nothing is known of the topic."""
_STOPWORDS = (
    "a about after again all also am an and any are as at back be because been before being but by came can come "
    "could did do does doing done down each even every few first for from get go going gonna good got had has "
    "have having he her here him his how i if in into is it its just know last let like little look lot made make "
    "many may maybe me mean more most much must my need next no not now of off ok okay on one only or other our "
    "out over own really right said same say see she should show so some still such take than thank thanks that "
    "the their them then there these they thing things think this those three through time to today too two under "
    "up us use used very video want was way we well went were what when where which while who why will with would "
    "yeah yes you your "
)
STOPWORDS = frozenset(_STOPWORDS.split())
"""English words that say nothing of a topic. In other languages, words that are everywhere weigh little anyway."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def words_of(text: str) -> list[str]:
    """Words in small letters; scripts without spaces as pairs of letters."""
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        if _CJK.search(word):
            found += [word[at : at + 2] for at in range(max(1, len(word) - 1))]
        else:
            found.append(word)
    return found


def telling(words: Iterable[str]) -> list[str]:
    """Without numbers, single letters and words that say nothing of a topic; plurals as singulars, about."""
    kept = (w for w in words if (len(w) > 2 or _CJK.search(w)) and not w.isdigit() and w not in STOPWORDS)
    return [word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith("ss") else word for word in kept]


class Topics:
    """What is said and written, with its times."""

    def __init__(self, cues: Iterable[Cue], embed: Embed | None = None) -> None:
        ordered = sorted(cues, key=lambda cue: cue.start_s)
        self._words = [(cue.start_s, word) for cue in ordered for word in telling(words_of(cue.text))]
        self._times = [time for time, _ in self._words]
        seen = Counter(word for _, word in self._words)
        self._weight = {word: 1 / math.sqrt(count) for word, count in seen.items()}
        self._cues = ordered
        self._vectors = embed([cue.text for cue in ordered]) if embed and ordered else None

    def change_at(self, seconds: float) -> float | None:
        """How different the words before and after a moment are, from 0 to 1; None where there are too few."""
        at = bisect_left(self._times, seconds)
        before, after = self._words[max(0, at - WINDOW_WORDS) : at], self._words[at : at + WINDOW_WORDS]
        if min(len(before), len(after)) < LEAST_WORDS:
            return None
        if self._vectors is not None:
            return self._by_vectors(before[0][0], seconds, after[-1][0])
        one, other = (self._counted(side) for side in (before, after))
        both = sum(one[word] * other[word] for word in one.keys() & other.keys())
        size = math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in other.values()))
        return 1 - both / size if size else None

    def _counted(self, words: Sequence[tuple[float, str]]) -> dict[str, float]:
        counts = Counter(word for _, word in words)
        return {word: count * self._weight[word] for word, count in counts.items()}

    def _by_vectors(self, begin: float, seconds: float, end: float) -> float | None:
        assert self._vectors is not None
        starts = np.array([cue.start_s for cue in self._cues])
        sides = [(starts >= begin) & (starts < seconds), (starts >= seconds) & (starts <= end)]
        if not all(side.any() for side in sides):
            return None
        one, other = (np.asarray(self._vectors[side].mean(0), np.float64) for side in sides)
        size = float(np.linalg.norm(one) * np.linalg.norm(other))
        return 1 - float(one @ other) / size if size else None
