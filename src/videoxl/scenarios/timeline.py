"""Show a timeline in a terminal."""

from __future__ import annotations

import math
import textwrap

from videoxl.memory.layout import clock
from videoxl.scenarios.events import Event
from videoxl.scenarios.run import Timeline

TITLES = {
    "ground": "{event}",
    "find-ads": "Advertisements",
    "find-anomalies": "Anomalies",
    "summarize": "Summary",
    "captions": "Captions",
}
BAR = 60
"""Columns of the bar."""


def title(timeline: Timeline) -> str:
    """Name what was looked for."""
    return TITLES[timeline.scenario].replace("{event}", timeline.event or "")


def fine_clock(seconds: float) -> str:
    """Write seconds to a tenth: ``1:02:03.5``."""
    tenths = round(seconds * 10)
    return f"{clock(tenths // 10)}.{tenths % 10}"


def when(event: Event) -> str:
    """Write when an event is: ``0:00:12.0 - 0:00:16.0``, or ``0:00:12.0`` for a moment."""
    times = dict.fromkeys((fine_clock(event.start), fine_clock(event.end)))
    return " - ".join(times)


def summary_line(timeline: Timeline) -> str:
    """Say how much was found, and where: ``2 found in 0:12:00 of film.mp4, read in 3 passes``."""
    passes = f", read in {len(timeline.replies)} passes" if len(timeline.replies) > 1 else ""
    found = f"{len(timeline.events)} found" if timeline.events else "nothing found"
    return f"{found} in {clock(timeline.end - timeline.begin)} of {timeline.video}{passes}"


def draw(timeline: Timeline, width: int = 100) -> str:
    """Draw a heading, a bar with a mark for every event, and a line per event, wrapped to ``width`` columns."""
    lines = [printable(f"{title(timeline)}: {summary_line(timeline)}")]
    if not timeline.events:
        return lines[0]
    lines += ["", _bar(timeline), ""]
    times = max(len(when(event)) for event in timeline.events)
    for event in timeline.events:
        head = f"{when(event):<{times}}  "
        text = textwrap.fill(printable(event.text), max(20, width - len(head)), break_on_hyphens=False)
        lines.append(head + text.replace("\n", "\n" + " " * len(head)))
    return "\n".join(lines)


def printable(text: str) -> str:
    """Put text on one line, without characters that move a terminal's cursor or change its colours."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _bar(timeline: Timeline) -> str:
    step = max(timeline.end - timeline.begin, 1e-9) / BAR
    marks = [" "] * BAR
    for event in timeline.events:
        first = min(BAR - 1, math.floor((event.start - timeline.begin) / step + 1e-6))
        last = max(first + 1, math.ceil((event.end - timeline.begin) / step - 1e-6))
        marks[first:last] = "#" * (min(last, BAR) - first)
    begin, end = clock(timeline.begin), clock(timeline.end)
    return f"|{''.join(marks)}|\n {begin}{end:>{BAR - len(begin)}}"
