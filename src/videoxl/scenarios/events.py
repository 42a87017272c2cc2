"""Read a model's answers as events on the time axis of a video."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

from videoxl.scenarios.time_spans import Mention, TimeSpan, find_moments, find_spans, iou, parse_spans

SAME_EVENT_IOU = 0.5
"""Two events of different passes are one if their intersection over union is at least this."""
MAX_BROKEN_JSON = 8
"""Failed attempts to parse JSON before an answer is read as prose."""
_BULLET = r"[\s*•#>|\-–—(\[\"'`]*(?:[0-9]{1,3}[.)]\s)?[\s*(\[\"'`]*"
_HEAD = re.compile(
    rf"{_BULLET}(?:(?:from|between|at|during|time|timestamp|second)\b|{{\s*\"start\w*\":)?[\s:*(\[\"'`]*",
    re.IGNORECASE,
)
_KEY = re.compile(r"[,\s]*\"(?:text|description|event|label|caption|summary)\"\s*:\s*\"?", re.IGNORECASE)
"""What stands before the text of an event in JSON that was cut off."""
_DENIAL = re.compile(
    r"\W*(?:no|none|nothing|n/a|there (?:is|are|was|were) (?:no|not|nothing)|(?:the|this) video (?:does not|doesn't)|"
    r"it (?:does not|doesn't)|i (?:do not|don't|did not|didn't|cannot|can't|could not|couldn't))\b",
    re.IGNORECASE,
)
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_SPACES = "".join(filter(str.isspace, map(chr, range(0x3001))))
"""All of Unicode's white space: what ``str.strip()`` takes away, the no-break space included."""
_FRINGE = _SPACES + "*_`'\"|:;,-–—>])}"


class EventDict(TypedDict):
    """An event as JSON has it, times in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, order=True)
class Event:
    """Something that happens from ``start`` to ``end``, in seconds of the video."""

    start: float
    end: float
    text: str

    def to_dict(self) -> EventDict:
        """Return the event with times rounded to milliseconds."""
        return {"start": round(self.start, 3), "end": round(self.end, 3), "text": self.text}


def denies(answer: str) -> bool:
    """Return whether an answer begins by saying that there is nothing."""
    return _DENIAL.match(answer) is not None


def parse_events(answer: str) -> list[Event]:
    """Return the events that an answer names with their times, in its order.

    Every line that begins with times is an event. So is every span of times within a sentence; its text is then the
    whole line. A line that holds only times takes its text from the next line. JSON objects with ``start`` and ``end``
    are events too.
    """
    if found := list(_from_json(answer)):
        return found
    spans, moments = find_spans(answer), find_moments(answer)
    events: list[Event] = []
    without_text: list[TimeSpan] = []
    at = 0
    for line in _LINE.findall(answer):
        stop = at + len(line)
        named = _starting_in(spans, at, stop) or _first_if_leading(_starting_in(moments, at, stop), line, at)
        pieces = _pieces(line, [Mention(m.span, m.begin - at, m.stop - at) for m in named])
        if not named and line.strip():
            pieces = [Event(*span, line.strip(_FRINGE + "#•")) for span in without_text]
            without_text = []
        events += [piece for piece in pieces if piece.text]
        without_text += [TimeSpan(piece.start, piece.end) for piece in pieces if not piece.text]
        at = stop
    return sorted([*events, *(Event(*span, "") for span in without_text)]) if without_text else events


def clipped(events: Sequence[Event], begin: float, end: float) -> list[Event]:
    """Cut events to what lies between ``begin`` and ``end``, in seconds. The model cannot have seen the rest."""
    inside = [event for event in events if event.start < end and event.end >= begin]
    return [Event(max(begin, event.start), min(end, event.end), event.text) for event in inside]


def merge(passes: Sequence[Sequence[Event]], *, gap: float) -> list[Event]:
    """Join the events of several passes over one video, in the order of time, each once.

    Two events are one if they have the same words and are at most ``gap`` seconds apart, or if they come from different
    passes and overlap by :data:`SAME_EVENT_IOU`. A joined event reaches from the first start to the last end, and has
    the longer text.
    """
    numbered = sorted((event, number) for number, events in enumerate(passes) for event in events)
    merged: list[tuple[Event, int]] = []
    for event, number in numbered:
        for place in range(len(merged) - 1, -1, -1):
            other, other_pass = merged[place]
            if _is_same(other, event, gap, other_pass != number):
                text = max(other.text, event.text, key=len)
                merged[place] = (Event(other.start, max(other.end, event.end), text), number)
                break
        else:
            merged.append((event, number))
    return [event for event, _ in merged]


def _is_same(one: Event, other: Event, gap: float, from_two_passes: bool) -> bool:
    if _words(one.text) == _words(other.text):
        return other.start <= one.end + gap
    return from_two_passes and iou((one.start, one.end), (other.start, other.end)) >= SAME_EVENT_IOU


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _starting_in(mentions: Sequence[Mention], begin: int, stop: int) -> list[Mention]:
    return [mention for mention in mentions if begin <= mention.begin < stop]


def _first_if_leading(moments: Sequence[Mention], line: str, at: int) -> list[Mention]:
    """Return the first moment if the line begins with it, else nothing."""
    return [m for m in moments[:1] if _HEAD.fullmatch(line[: m.begin - at])]


def _pieces(line: str, mentions: Sequence[Mention]) -> list[Event]:
    """Return the events of one line. ``mentions``: the times in it."""
    if not mentions:
        return []
    if not _HEAD.fullmatch(line[: mentions[0].begin]):
        return [Event(*mention.span, line.strip(_FRINGE + "#•")) for mention in mentions]
    ends = [*(mention.begin for mention in mentions[1:]), len(line)]
    return [Event(*m.span, _text_behind(line[m.stop : end])) for m, end in zip(mentions, ends)]


def _text_behind(behind: str) -> str:
    """Return the text behind a span of times, without marks around it and words that lead on to the next span."""
    text = _KEY.sub("", behind.lstrip(_FRINGE.replace('"', "").replace(",", "")), count=1) if '"' in behind else behind
    return re.sub(r"\W*\b(?:and|from|and from)$", "", text.strip(_FRINGE + "([")).strip(_FRINGE)


def _from_json(answer: str) -> Iterator[Event]:
    """Read objects like ``{"start": 12.0, "end": "0:16", "text": "..."}``, in a list or one after the other."""
    at = broken = 0
    while broken < MAX_BROKEN_JSON:
        begin = re.compile(r"[\[{]\s*[\[{\"]").search(answer, at)
        if begin is None:
            return
        try:
            found, at = json.JSONDecoder().raw_decode(answer, begin.start())
        except (ValueError, RecursionError):
            at, broken = begin.start() + 1, broken + 1
            continue
        yield from map(_from_entry, filter(_has_one_span, found if isinstance(found, list) else [found]))


def _has_one_span(entry: object) -> bool:
    return isinstance(entry, dict) and len(parse_spans(_span_of(entry))) == 1


def _from_entry(entry: dict[str, object]) -> Event:
    texts = [v for k, v in entry.items() if isinstance(v, str) and not k.lower().startswith(("start", "end"))]
    return Event(*parse_spans(_span_of(entry))[0], max(texts, key=len, default="").strip())


def _span_of(entry: dict[str, object]) -> str:
    start, end = (
        next((value for key, value in entry.items() if key.lower().startswith(name)), None) for name in ("start", "end")
    )
    return f"from {start} to {end}"
