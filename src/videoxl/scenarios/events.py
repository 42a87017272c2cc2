"""What a model says happens, as events on the time axis of a video."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from videoxl.scenarios.time_spans import Mention, TimeSpan, find_moments, find_spans, iou, parse_spans

SAME = 0.5
"""Two events of different passes that overlap by at least this (intersection over union) are one."""
MOST_BROKEN = 8
"""Beginnings of JSON that may turn out to be none before an answer is taken for prose."""
_BULLET = r"[\s*•#>|\-–—(\[\"'`]*(?:[0-9]{1,3}[.)]\s)?[\s*(\[\"'`]*"
_HEAD = re.compile(
    rf"{_BULLET}(?:(?:from|between|at|during|time|timestamp|second)\b|{{\s*\"start\w*\":)?[\s:*(\[\"'`]*",
    re.IGNORECASE,
)
_KEY = re.compile(r"[,\s]*\"(?:text|description|event|label|caption|summary)\"\s*:\s*\"?", re.IGNORECASE)
"""In front of a text, of JSON that was cut off."""
_DENIAL = re.compile(
    r"\W*(?:no|none|nothing|n/a|there (?:is|are|was|were) (?:no|not|nothing)|(?:the|this) video (?:does not|doesn't)|"
    r"it (?:does not|doesn't)|i (?:do not|don't|did not|didn't|cannot|can't|could not|couldn't))\b",
    re.IGNORECASE,
)
_FRINGE = " \t\r\n*_`'\"|:;,-–—>])}"


@dataclass(frozen=True, order=True)
class Event:
    """Something that happens from ``start`` to ``end``, in seconds of the video."""

    start: float
    end: float
    text: str

    def to_dict(self) -> dict[str, Any]:
        return {"start": round(self.start, 3), "end": round(self.end, 3), "text": self.text}


def denies(answer: str) -> bool:
    """Whether an answer begins by saying that there is nothing."""
    return _DENIAL.match(answer) is not None


def parse_events(answer: str) -> list[Event]:
    """The events that an answer names with their times, in its order.

    Every line that begins with times is an event, and so is every span of times within a sentence, whose text is then
    the whole line. A line of times alone is told about by the next. JSON objects with ``start`` and ``end`` are read
    as such.
    """
    if found := list(_from_json(answer)):
        return found
    spans, moments = find_spans(answer), find_moments(answer)
    events: list[Event] = []
    waiting: list[TimeSpan] = []
    at = 0
    for line in answer.splitlines(keepends=True):
        named = _within(spans, at, at + len(line)) or _first_if_leading(_within(moments, at, at + len(line)), line, at)
        pieces = _pieces(line, [Mention(m.span, m.begin - at, m.stop - at) for m in named])
        if not named and line.strip():
            pieces = [Event(*span, line.strip(_FRINGE + "#•")) for span in waiting]
            waiting = []
        events += [piece for piece in pieces if piece.text]
        waiting += [TimeSpan(piece.start, piece.end) for piece in pieces if not piece.text]
        at += len(line)
    return sorted([*events, *(Event(*span, "") for span in waiting)]) if waiting else events


def clipped(events: Sequence[Event], begin: float, end: float) -> list[Event]:
    """What of the events lies between ``begin`` and ``end``; a model cannot have seen the rest."""
    inside = [event for event in events if event.start < end and event.end >= begin]
    return [Event(max(begin, event.start), min(end, event.end), event.text) for event in inside]


def merge(passes: Sequence[Sequence[Event]], *, gap: float) -> list[Event]:
    """The events of several passes over one video, in the order of time, each once.

    Two are one when they have the same words and lie no further than ``gap`` seconds apart, or when different passes
    saw them and they overlap by :data:`SAME`. What is one reaches from the first start to the last end, and has the
    longer text.
    """
    found = sorted((event, number) for number, events in enumerate(passes) for event in events)
    merged: list[tuple[Event, int]] = []
    for event, number in found:
        for place in range(len(merged) - 1, -1, -1):
            other, seen_by = merged[place]
            if _is_same(other, event, gap, seen_by != number):
                text = max(other.text, event.text, key=len)
                merged[place] = (Event(other.start, max(other.end, event.end), text), number)
                break
        else:
            merged.append((event, number))
    return [event for event, _ in merged]


def _is_same(one: Event, other: Event, gap: float, from_two_passes: bool) -> bool:
    if _words(one.text) == _words(other.text):
        return other.start <= one.end + gap
    return from_two_passes and iou((one.start, one.end), (other.start, other.end)) >= SAME


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _within(mentions: Sequence[Mention], begin: int, stop: int) -> list[Mention]:
    return [mention for mention in mentions if begin <= mention.begin < stop]


def _first_if_leading(moments: Sequence[Mention], line: str, at: int) -> list[Mention]:
    """A moment with which a line begins."""
    return [m for m in moments[:1] if _HEAD.fullmatch(line[: m.begin - at])]


def _pieces(line: str, mentions: Sequence[Mention]) -> list[Event]:
    """The events of one line."""
    if not mentions:
        return []
    if not _HEAD.fullmatch(line[: mentions[0].begin]):
        return [Event(*mention.span, line.strip(_FRINGE + "#•")) for mention in mentions]
    ends = [*(mention.begin for mention in mentions[1:]), len(line)]
    return [Event(*m.span, _told(line[m.stop : end])) for m, end in zip(mentions, ends)]


def _told(behind: str) -> str:
    """The text behind a span of times: without the marks around it, and words that lead on to the next one."""
    text = _KEY.sub("", behind.lstrip(_FRINGE.replace('"', "").replace(",", "")), count=1) if '"' in behind else behind
    return re.sub(r"\W*\b(?:and|from|and from)$", "", text.strip(_FRINGE + "([")).strip(_FRINGE)


def _from_json(answer: str) -> Iterator[Event]:
    """Objects like ``{"start": 12.0, "end": "0:16", "text": "..."}``, in a list or one after the other."""
    at = broken = 0
    while broken < MOST_BROKEN:
        begin = re.compile(r"[\[{]\s*[\[{\"]").search(answer, at)
        if begin is None:
            return
        try:
            found, at = json.JSONDecoder().raw_decode(answer, begin.start())
        except (ValueError, RecursionError):
            at, broken = begin.start() + 1, broken + 1
            continue
        yield from map(_from_entry, filter(_is_entry, found if isinstance(found, list) else [found]))


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and len(parse_spans(_span_of(entry))) == 1


def _from_entry(entry: dict[str, Any]) -> Event:
    texts = [v for k, v in entry.items() if isinstance(v, str) and not k.lower().startswith(("start", "end"))]
    return Event(*parse_spans(_span_of(entry))[0], max(texts, key=len, default="").strip())


def _span_of(entry: dict[str, Any]) -> str:
    start, end = (
        next((value for key, value in entry.items() if key.lower().startswith(name)), None) for name in ("start", "end")
    )
    return f"from {start} to {end}"
