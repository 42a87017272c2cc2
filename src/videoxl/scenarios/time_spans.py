"""Find time spans in free text, in whatever form a model writes them.

Known forms are ``12.0s to 16.0s``, ``00:12-00:16``, ``1:02:03``, ``12.0 - 16.0 seconds``, ``1 min 5 s``, ``between 12
and 16``, ``[12.0, 16.0]``, ``starts at 12s and ends at 16s``, ``at 12s for 4 seconds``, JSON with ``start`` and
``end``, and lists of all these. Numbers without a unit are seconds.

The text is a model's, so it may be anything: any text is read, in time that grows with its length only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SCALES = {"h": 3600.0, "m": 60.0, "s": 1.0}
NEAR = 60
"""Most characters between two times, or a time and the word that introduces it, that may belong together."""

_ONE_DASH = str.maketrans(dict.fromkeys("‐‑‒–—−~", "-") | {"→": ">", "：": ":", "\u00a0": " ", "\u202f": " "})
"""Each character is replaced by one, so that positions in the text stay the same."""
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_TIME = re.compile(
    r"(?<![\w.])(?<![0-9]:)(?:(?P<hours>[0-9]{1,3}):)?(?P<minutes>[0-9]{1,3}):(?P<seconds>[0-9]{2}(?:[.,][0-9]{1,6})?)s?(?!\w|:[0-9])"
    rf"|(?:(?<![\w.])(?<![0-9]:)|(?<=[0-9][hm]))(?P<measured>{_NUMBER})(?:st|nd|rd|th)?[ -]{{0,2}}"
    r"(?P<unit>h|m|s)(?:(?<=h)(?:rs?|ours?)|(?<=m)(?:ins?|inutes?)|(?<=s)(?:ecs?|econds?))?(?![a-z])"
    rf"|(?<![\w.$€£#/])(?<![0-9]:)(?P<bare>{_NUMBER})(?![\w%/]|[.:][0-9])",
    re.IGNORECASE | re.ASCII,
)
_VAGUE = r"(?:(?:the|a|at|about|around|approximately|roughly|seconds?|time|timestamp|mark|t ?=) ?)*"
_TO = re.compile(
    r"(?:mark |point |timestamp )?"
    rf"(?:(?:up |all the way |on )?(?:to|until|till|through|thru)|到|至|-+>?|>|\.\.+) ?{_VAGUE}",
    re.IGNORECASE,
)
_AND = re.compile(rf"(?:mark |point )?and ?{_VAGUE}", re.IGNORECASE)
_FOR = re.compile(r",? ?(?:and )?(?:it )?(?:for|last(?:s|ing|ed)(?: for)?)(?: about| around)?", re.IGNORECASE)
_BETWEEN = re.compile(rf"between {_VAGUE}$", re.IGNORECASE)
_INTRODUCTION = re.compile(rf"(?<![a-z])(?:from|between|during|seconds?|time|timestamps?|in|at):? {_VAGUE}$", re.I)
_BEGINNING = re.compile(r"(?<![a-z])(?:start|begin)", re.IGNORECASE)
_ENDING = re.compile(r"(?<![a-z])(?:end|finish|stop|conclud|until|over)", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`'\"<>()\[\]{}\s]+")
_QUOTES = "'\"` *"


class TimeSpan(NamedTuple):
    """A part of a video, in seconds."""

    start: float
    end: float


class Mention(NamedTuple):
    """A time span in a text. Characters ``begin`` to before ``stop`` name it."""

    span: TimeSpan
    begin: int
    stop: int


@dataclass(frozen=True)
class _Time:
    """One time in a text. ``scale``: seconds in its (smallest) unit; None for a number without a unit."""

    seconds: float
    scale: float | None
    begin: int
    stop: int
    is_clock: bool = False


def parse_spans(text: str) -> list[TimeSpan]:
    """Return all time spans that a text names, in its order."""
    return [mention.span for mention in find_spans(text)]


def find_spans(text: str) -> list[Mention]:
    """Return all time spans that a text names, and where.

    Only the most certain kind that occurs counts, so that "2 to 3 people, from 12.0s to 16.0s" names one span:

    1. times with a unit or a clock's colons;
    2. plain numbers that are introduced: "from 12 to 16", "[12, 16]";
    3. plain numbers that end a clause: "12 - 16".

    If nothing connects them, two times with units are one span when they are the only ones and stand on one line.
    Negative numbers, frame numbers, and spans that end before they begin do not count.
    """
    flat = text.translate(_ONE_DASH)
    times = list(_times(flat))
    found: list[list[Mention]] = [[], [], []]
    at = 0
    while at + 1 < len(times):
        pair = _pair(flat, times[at], times[at + 1])
        if pair is not None and pair[0].start <= pair[0].end:
            found[pair[1]].append(Mention(pair[0], times[at].begin, times[at + 1].stop))
        at += 1 if pair is None else 2
    for mentions in found:
        if mentions:
            return mentions
    sure = [time for time in times if time.scale is not None]
    if len(sure) == 2 and sure[0].seconds <= sure[1].seconds and "\n" not in flat[sure[0].stop : sure[1].begin]:
        return [Mention(TimeSpan(sure[0].seconds, sure[1].seconds), sure[0].begin, sure[1].stop)]
    return []


def find_moments(text: str) -> list[Mention]:
    """Return single times with a unit or a clock's colons, as spans without length: ``12.0s: a red star``."""
    times = _times(text.translate(_ONE_DASH))
    return [Mention(TimeSpan(t.seconds, t.seconds), t.begin, t.stop) for t in times if t.scale is not None]


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two spans (start, end), 0 to 1.

    It is 0 if a span has no length or ends before it begins.
    """
    if one[1] < one[0] or other[1] < other[0]:
        return 0.0
    shared = min(one[1], other[1]) - max(one[0], other[0])
    union = max(one[1], other[1]) - min(one[0], other[0])
    return max(0.0, shared) / union if union > 0 else 0.0


def _times(flat: str) -> Iterator[_Time]:
    """Yield all times, in order. Hours, minutes and seconds that follow one another are one time."""
    waiting: _Time | None = None
    for match in _TIME.finditer(flat):
        time = _time(match)
        if waiting is not None and _continues(flat, waiting, time):
            waiting = _Time(waiting.seconds + time.seconds, time.scale, waiting.begin, time.stop)
            continue
        if waiting is not None:
            yield waiting
        waiting = time
    if waiting is not None:
        yield waiting


def _time(match: re.Match[str]) -> _Time:
    part = match.groupdict()
    if part["seconds"] is not None:
        clock = int(part["hours"] or 0) * 3600 + int(part["minutes"]) * 60 + float(part["seconds"].replace(",", "."))
        return _Time(clock, 1.0, match.start(), match.end(), is_clock=True)
    if part["bare"] is not None:
        return _Time(float(part["bare"]), None, match.start(), match.end())
    scale = SCALES[part["unit"].lower()]
    return _Time(float(part["measured"]) * scale, scale, match.start(), match.end())


def _continues(flat: str, time: _Time, smaller: _Time) -> bool:
    """Return whether ``smaller`` continues ``time``, as ``and 5 s`` continues ``1 min``."""
    if time.scale is None or smaller.scale is None or time.is_clock or smaller.is_clock or smaller.scale >= time.scale:
        return False
    return flat[time.stop : smaller.begin].strip(" ,") in ("", "and")


def _pair(flat: str, first: _Time, second: _Time) -> tuple[TimeSpan, int] | None:
    """Return the span between two neighbouring times and its kind, 0 to 2, as :func:`find_spans` ranks them.

    None if nothing connects them.
    """
    if second.begin - first.stop > NEAR or _is_no_time(flat, first):
        return None
    before = _plain(flat[max(0, first.begin - NEAR) : first.begin])
    gap = _plain(flat[first.stop : second.begin]).strip()
    in_brackets = _in_brackets(flat, first, second)
    begun = _BEGINNING.search(before) is not None
    if (
        _TO.fullmatch(gap)
        or (_AND.fullmatch(gap) and _BETWEEN.search(before))
        or (gap == "," and in_brackets)
        or (begun and _ENDING.search(gap))
    ):
        span = _in_one_unit(first, second)
    elif first.scale and second.scale and not second.is_clock and _FOR.fullmatch(gap):
        span = TimeSpan(first.seconds, first.seconds + second.seconds)
    else:
        return None
    if first.scale or second.scale:
        return span, 0
    if in_brackets or begun or _INTRODUCTION.search(before):
        return span, 1
    return (span, 2) if _ends_a_clause(flat, second.stop) else None


def _in_one_unit(first: _Time, second: _Time) -> TimeSpan:
    """Give a number without a unit the unit of the other: ``1-2 minutes``. Beside a clock it is seconds."""
    start = first.seconds if first.scale or second.is_clock else first.seconds * (second.scale or 1.0)
    end = second.seconds if second.scale or first.is_clock else second.seconds * (first.scale or 1.0)
    return TimeSpan(start, end)


def _plain(text: str) -> str:
    """Remove markup, and leave single spaces."""
    return _MARKUP.sub(" ", text)


def _in_brackets(flat: str, first: _Time, second: _Time) -> bool:
    left = flat[max(0, first.begin - 4) : first.begin].rstrip(_QUOTES)
    right = flat[second.stop : second.stop + 4].lstrip(_QUOTES)
    return left[-1:] in ("[", "(") and right[:1] in ("]", ")") and bool(left)


def _is_no_time(flat: str, first: _Time) -> bool:
    """Return whether a number is negative, part of a date (``2024-01-02``), or a frame number."""
    before = flat[max(0, first.begin - 12) : first.begin]
    return re.search(r"(?:^|[\s(\[\w])-$|\bframes? ?#?$", before, re.IGNORECASE) is not None


def _ends_a_clause(flat: str, stop: int) -> bool:
    rest = flat[stop : stop + 12].lstrip(" *_`'\"<>)]}")
    return not rest or not (rest[0].isalnum() or rest[0] in "-%$€£")
