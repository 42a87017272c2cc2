"""From what a speech model writes down to cues: what it invented is left out, times are put in order, pieces joined."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

from videoxl.cues import SpokenCue, SpokenWord
from videoxl.video.subtitles import INVISIBLE, MAX_CUE_CHARACTERS

LONGEST_PAUSE = 1.5
"""Seconds between two words at which a cue ends."""
SAME_WORD = 0.6
"""Seconds by which the times of one word may differ between two pieces that overlap."""
UNSURE = -1.0
"""Mean log-probability of the tokens of a segment: what lies lower is not believed."""
NO_SPEECH, UNSURE_NO_SPEECH = 0.6, -0.5
"""A segment that the model takes for no speech with this probability must be surer than others."""
REPEATED = 2.4
"""A text that can be compressed so many times repeats itself: models that found nothing say one thing over and over."""
LEAST_CONFIDENCE = 0.3
"""Mean probability of the words of a segment."""


class Word(Protocol):
    """A word of faster-whisper."""

    start: float
    end: float
    word: str
    probability: float


class Segment(Protocol):
    """A segment of faster-whisper."""

    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    words: Sequence[Word] | None


def clean(text: str) -> str:
    """A text on one line, without characters that nobody sees."""
    return " ".join(INVISIBLE.sub("", text).split())[:MAX_CUE_CHARACTERS].strip()


def why_not_believed(segment: Segment) -> str | None:
    """Why a segment is taken for invented; None: it is not."""
    data = segment.text.encode(errors="replace")
    if len(data) > 40 and len(data) / len(zlib.compress(data)) > REPEATED:
        return "repeats itself"
    if segment.avg_logprob < UNSURE:
        return "is unsure"
    if segment.no_speech_prob > NO_SPEECH and segment.avg_logprob < UNSURE_NO_SPEECH:
        return "is no speech"
    words = segment.words or ()
    if words and sum(word.probability for word in words) / len(words) < LEAST_CONFIDENCE:
        return "is unsure"
    return None


def words_of(segment: Segment, begin_s: float, end_s: float) -> list[SpokenWord]:
    """The words of a segment in order, none reaching into the next.

    ``begin_s``, ``end_s``: the piece of sound, on the file's clock, to which times are relative.
    """
    words: list[SpokenWord] = []
    at = begin_s
    for word in segment.words or ():
        if not (text := clean(word.word)):
            continue
        start = round(min(max(begin_s + float(word.start), at), end_s), 3)
        at = max(round(min(begin_s + float(word.end), end_s), 3), start)
        words.append(SpokenWord(start, at, text, round(min(max(float(word.probability), 0.0), 1.0), 4)))
    return words


def cues_of(words: Sequence[SpokenWord], text: str) -> Iterator[SpokenCue]:
    """The cues of a segment: one, or more where somebody pauses. ``text``: of the segment."""
    edges = [0, *(n for n, (a, b) in enumerate(pairwise(words), 1) if b.start_s - a.end_s > LONGEST_PAUSE), len(words)]
    space = " " if " " in text.strip() or len(words) < 2 else ""
    for first, last in pairwise(edges):
        if last > first:
            yield cue_of(words[first:last], space)


def cue_of(words: Sequence[SpokenWord], space: str = " ") -> SpokenCue:
    """A cue of at least one word. ``space``: what stands between words."""
    confidence = round(sum(word.probability for word in words) / len(words), 4)
    text = space.join(word.text for word in words)[:MAX_CUE_CHARACTERS]
    return SpokenCue(words[0].start_s, words[-1].end_s, text, tuple(words), confidence)


def join(earlier: list[SpokenCue], later: list[SpokenCue], begin_s: float, end_s: float) -> list[SpokenCue]:
    """Cues of two pieces that overlap from ``begin_s`` to ``end_s``: each word of the overlap once.

    They change over at a word that both have; where they agree on none, at the middle of the overlap.
    """
    middle = (begin_s + end_s) / 2
    ours = [w for cue in earlier for w in cue.words if w.end_s > begin_s]
    theirs = [w for cue in later for w in cue.words if w.start_s < end_s]
    shared = [(a, b) for a in ours for b in theirs if _same(a, b)]
    if shared:
        last, met = min(shared, key=lambda pair: abs(_middle(pair[0]) - middle))
        return [*_kept(earlier, lambda w: w.start_s <= last.start_s), *_kept(later, lambda w: w.start_s > met.start_s)]
    return [*_kept(earlier, lambda w: _middle(w) < middle), *_kept(later, lambda w: _middle(w) >= middle)]


def _same(one: SpokenWord, other: SpokenWord) -> bool:
    return abs(_middle(one) - _middle(other)) < SAME_WORD and _letters(one.text) == _letters(other.text)


def _letters(text: str) -> str:
    return re.sub(r"\W", "", text).casefold()


def _middle(word: SpokenWord) -> float:
    return (word.start_s + word.end_s) / 2


def _kept(cues: Iterable[SpokenCue], wanted: Callable[[SpokenWord], bool]) -> Iterator[SpokenCue]:
    for cue in cues:
        words = [word for word in cue.words if wanted(word)]
        if len(words) == len(cue.words):
            yield cue
        elif words:
            yield cue_of(words, " " if " " in cue.text else "")
