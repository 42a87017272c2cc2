"""How cues and questions become words, and where the words of a question stand in a text.

One set of rules for both: letters without case, width and accents. Scripts that are written without spaces (Chinese,
Japanese, Thai ...) and Hangul become a word a character, and a word of a question that has several becomes a phrase. So
``北京`` is found inside of a longer run, which whole runs would not allow, nor groups of three characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from videoxl.text import require_characters

Phrase = tuple[str, ...]
"""Words that stand behind one another."""
Span = tuple[int, int]
"""Begin and end of a part of a text, in characters."""
MAX_QUERY = 2000
"""Characters of a question, at most."""
MAX_PHRASES = 64
"""Words and phrases of a question that are looked for; the rest of a longer one is left out."""
MAX_WORD = 64
"""Characters of a word that count."""
SNIPPET = 240
"""Characters of a text that are shown around what was found."""
_ASCII = re.compile("[0-9a-z]+")
_ACCENTS = re.compile("[\u0300-\u036f]")
_SINGLE = re.compile(
    "[\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u312f\u31a0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Characters that are words of their own: Thai, Lao, Tibetan, Myanmar, Khmer, Hangul, Kana and ideographs."""
_MARKS = '"\u201c\u201d\u201e\u00ab\u00bb'
_QUOTED = re.compile(f"[{_MARKS}]([^{_MARKS}]*)[{_MARKS}]")


@dataclass(frozen=True)
class Query:
    """What somebody looks for."""

    text: str
    words: tuple[Phrase, ...]
    """Each may be found."""
    quoted: tuple[Phrase, ...] = ()
    """Each must be found: what stood in quotation marks."""

    @classmethod
    def parse(cls, text: str) -> Query:
        """Read a question. Whatever signs are in it, its words are words. Raises ``ValueError`` where there is none."""
        require_characters(text, "the query")
        if not text.strip():
            raise ValueError("the query is empty: say what to look for")
        if len(text) > MAX_QUERY:
            raise ValueError(f"the query has {len(text):,} characters, {MAX_QUERY:,} are allowed: look for less")
        quoted = [tuple(words_in(part)) for part in _QUOTED.findall(text)]
        loose = [tuple(words_in(part)) for part in _QUOTED.sub(" ", text).split()]
        return cls(text.strip(), _distinct(loose), _distinct(quoted))

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        """All words and phrases."""
        return _distinct((*self.quoted, *self.words))


def _distinct(phrases: Iterable[Phrase]) -> tuple[Phrase, ...]:
    return tuple(dict.fromkeys(phrase for phrase in phrases if phrase))[:MAX_PHRASES]


def parts_of(phrase: Phrase) -> list[Phrase]:
    """The words of what was written without a space, to be looked for alone: of ``goal/ball``, but not of ``北京``."""
    return [(word,) for word in dict.fromkeys(phrase) if not _SINGLE.match(word)] if len(phrase) > 1 else []


def words_in(text: str) -> Iterator[str]:
    """Yield the words of a text, as they are compared."""
    if text.isascii():
        for found in _ASCII.finditer(text.lower()):
            yield found[0][:MAX_WORD]
        return
    for _, _, word in word_spans(text):
        yield word


def word_spans(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield begin, end and comparable form of each word."""
    begin, parts = 0, list[str]()
    for place, character in enumerate(text):
        plain, kind = _folded(character)
        if kind == "part":
            if not parts:
                begin = place
            parts.append(plain)
            continue
        if parts and (word := "".join(parts)[:MAX_WORD]):
            yield begin, place, word
        parts = []
        if kind == "single":
            yield place, place + 1, plain
    if parts and (word := "".join(parts)[:MAX_WORD]):
        yield begin, len(text), word


@lru_cache(maxsize=1 << 16)
def _folded(character: str) -> tuple[str, str]:
    """Comparable form of a character, and whether it is part of a word, a word of its own, or between words."""
    plain = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", character)))
    plain = plain.casefold()
    if not plain:  # an accent that stands alone: part of the word it is in
        return "", "part"
    if _SINGLE.match(plain):
        return plain, "single"
    inside = all(unicodedata.category(one)[0] in "LNM" for one in plain)
    return (plain, "part") if inside else ("", "between")


def marks_in(text: str, phrases: Sequence[Phrase]) -> tuple[Span, ...]:
    """Where the phrases stand in a text, in order, without overlaps."""
    found = list(word_spans(text))
    words = [word for _, _, word in found]
    spans: list[Span] = []
    for phrase in phrases:
        for place in _places(words, phrase):
            spans.append((found[place][0], found[place + len(phrase) - 1][1]))
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return tuple(joined)


def _places(words: Sequence[str], phrase: Phrase) -> Iterator[int]:
    for place, word in enumerate(words):
        if word == phrase[0] and tuple(words[place : place + len(phrase)]) == phrase:
            yield place


def holds(words: Sequence[str], phrase: Phrase) -> bool:
    """Whether a phrase stands among words."""
    return next(_places(words, phrase), None) is not None


def snippet(text: str, phrases: Sequence[Phrase]) -> tuple[str, tuple[Span, ...]]:
    """The part of a text around the first mark, of :data:`SNIPPET` characters, and the marks in it."""
    marks = marks_in(text, phrases)
    if len(text) <= SNIPPET:
        return text, marks
    first = marks[0][0] if marks else 0
    begin = max(0, min(first - SNIPPET // 4, len(text) - SNIPPET))
    end = begin + SNIPPET
    before, after = "... " if begin else "", " ..." if end < len(text) else ""
    shift = len(before) - begin
    inside = tuple((max(a, begin) + shift, min(b, end) + shift) for a, b in marks if a < end and b > begin)
    return f"{before}{text[begin:end]}{after}", inside
