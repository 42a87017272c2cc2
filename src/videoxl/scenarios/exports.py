"""What was found, as files that other programs read: SubRip, WebVTT, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence

from videoxl.scenarios.events import Event

SPREADSHEET_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins like this is a formula to spreadsheets, which may do anything."""
LINE_END = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
"""What some program or other takes for the end of a line."""
SHORTEST = 0.5
"""Seconds that a caption of a moment is shown."""


def srt(events: Sequence[Event]) -> str:
    """SubRip: numbered captions, times as ``00:00:12,000``."""
    return "\n".join(
        f"{number}\n{_clock(event.start, ',')} --> {_clock(_end(event), ',')}\n{_lines(event.text)}\n"
        for number, event in enumerate(events, 1)
    )


def vtt(events: Sequence[Event]) -> str:
    """WebVTT; what would be markup in a text is escaped."""
    cues = [
        f"{_clock(event.start, '.')} --> {_clock(_end(event), '.')}\n{_escaped(_lines(event.text))}\n"
        for event in events
    ]
    return "\n".join(["WEBVTT\n", *cues])


def table(events: Sequence[Event]) -> str:
    """CSV with a head: start, end, text. A text that a spreadsheet would take for a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("start", "end", "text"))
    for event in events:
        text = " ".join(event.text.split())
        safe = f"'{text}" if event.text.startswith(SPREADSHEET_FORMULA) else text
        writer.writerow((f"{event.start:.3f}", f"{event.end:.3f}", safe))
    return out.getvalue()


def as_json(events: Sequence[Event]) -> str:
    """``[{"start": 12.0, "end": 16.0, "text": "..."}]``."""
    return json.dumps([event.to_dict() for event in events], indent=1) + "\n"


EXPORTS: dict[str, tuple[str, Callable[[Sequence[Event]], str]]] = {
    "srt": ("application/x-subrip", srt),
    "vtt": ("text/vtt", vtt),
    "csv": ("text/csv", table),
    "json": ("application/json", as_json),
}
"""By the end of a file's name: its media type, and what writes it."""


def exporter(path: str) -> Callable[[Sequence[Event]], str]:
    """What writes a file of this name. Raises ``ValueError`` for a name with another end."""
    end = path.rpartition(".")[2].lower()
    if end not in EXPORTS:
        raise ValueError(f"{path}: the name must end with {', '.join(f'.{name}' for name in EXPORTS)}")
    return EXPORTS[end][1]


def _clock(seconds: float, point: str) -> str:
    whole = max(0, round(seconds * 1000))
    return f"{whole // 3_600_000:02d}:{whole // 60_000 % 60:02d}:{whole // 1000 % 60:02d}{point}{whole % 1000:03d}"


def _end(event: Event) -> float:
    return max(event.end, event.start + SHORTEST)


def _lines(text: str) -> str:
    """Without empty lines, which end a caption, and without what looks like the times of the next."""
    lines = [line.strip().replace("-->", "->") for line in LINE_END.split(text) if line.strip()]
    return "\n".join(lines) or "-"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
