"""How lmms-eval 0.7 reads a time span in an answer, for Charades-STA and for TimeLens-Bench, mistakes included.

:func:`~videoxl.scenarios.time_spans.parse_spans` is the careful reading; a result has both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Span = tuple[float, float]
_NUMBER = r"\d+(?:\.\d+)?"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?"
_EXAMPLE = "a specific example is : 20.8 - 30.0 seconds"
_ABOUT_TIME = ("start", "end", "happen")


def charades_span(text: str) -> Span | None:
    """Charades-STA: the first span of the first form that any sentence about a start, an end or a happening has.

    Forms are a range of clock times, a range of numbers (``to`` counts as a dash, even within words), two clock times
    anywhere, the first numbers of two sentences, and a range with an ``s`` before the dash. ``!``, ``?`` and line
    breaks end a sentence. Start and end are put in order.
    """
    plain = text.lower().replace(_EXAMPLE, "").replace("to", "-")
    sentences = re.split(r"[!?\n]", plain)
    sentences = [one for one in sentences if any(word in one for word in _ABOUT_TIME)] or sentences
    for read in (_clock_range, _number_range, _clocks, _first_numbers, _range_of_seconds):
        times = read(sentences)
        if len(times) >= 2:
            return min(times[:2]), max(times[:2])
    return None


def _clock_range(sentences: Sequence[str]) -> list[float]:
    return _first_range(sentences, rf"\b({_CLOCK})\s*[–-]\s*({_CLOCK})\b", _seconds)


def _number_range(sentences: Sequence[str]) -> list[float]:
    return _first_range(sentences, rf"({_NUMBER})\s*[–-]\s*({_NUMBER})", float)


def _first_range(sentences: Sequence[str], pattern: str, seconds: Callable[[str], float]) -> list[float]:
    found = next((match for one in sentences if (match := re.search(pattern, one))), None)
    return [seconds(time) for time in found.groups()] if found else []


def _clocks(sentences: Sequence[str]) -> list[float]:
    return [_seconds(time) for one in sentences for time in re.findall(rf"\b{_CLOCK}\b", one)]


def _first_numbers(sentences: Sequence[str]) -> list[float]:
    found = (re.search(rf"\b{_NUMBER}\b", one) for one in sentences)
    return [float(match[0]) for match in found if match]


def _range_of_seconds(sentences: Sequence[str]) -> list[float]:
    return _first_range(sentences, rf"({_NUMBER})\s*s?\s*[–-]\s*({_NUMBER})", float)


def timelens_span(text: str) -> Span | None:
    """TimeLens-Bench: the first two clock times, or else ``12 - 15``, or else ``12 to 15``, or else the first two
    numbers. They are not put in order.
    """
    plain = text.lower()
    clocks = re.findall(r"\b(\d{1,2}:\d{2}:\d{2}(?:\.\d+)?|\d{1,2}:\d{2}(?:\.\d+)?)\b", plain)
    if len(clocks) >= 2:
        return _seconds(clocks[0]), _seconds(clocks[1])
    number = r"\d+\.?\d*"
    for joined in (r"\s*-\s*", r"\s+to\s+"):
        if found := re.search(rf"({number}){joined}({number})", plain):
            return float(found[1]), float(found[2])
    numbers = re.findall(rf"\b{number}\b", plain)
    return (float(numbers[0]), float(numbers[1])) if len(numbers) >= 2 else None


def overlap(one: Span, other: Span) -> float:
    """Intersection over the whole from the first start to the last end."""
    whole = max(one[1], other[1]) - min(one[0], other[0])
    return max(min(one[1], other[1]) - max(one[0], other[0]), 0.0) / whole if whole > 0 else 0.0


def _seconds(time: str) -> float:
    seconds = 0.0
    for part in time.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


RULES: dict[str, Callable[[str], Span | None]] = {"charades": charades_span, "timelens": timelens_span}
"""By the names of the prompts that they belong to."""
