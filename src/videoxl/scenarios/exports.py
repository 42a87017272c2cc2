"""What was found, as files that other programs read: SubRip, WebVTT, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence

from videoxl.cues import Track
from videoxl.scenarios.events import Event, EventDict
from videoxl.text import without_surrogates

SPREADSHEET_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins like this is a formula to spreadsheets, which may do anything."""
LINE_END = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
"""What some program or other takes for the end of a line."""
SHORTEST = 0.5
"""Seconds that a caption of a moment is shown."""


def events_of(track: Track) -> list[Event]:
    """The cues of a track as events."""
    return [Event(cue.start_s, cue.end_s, cue.text) for cue in track.cues]


def with_words(event: Event, tracks: Sequence[Track]) -> dict[str, object]:
    """An event as plain values; for each track, by its kind, the cues of the same time."""
    said: dict[str, list[EventDict]] = {
        str(track.kind): [cue.to_dict() for cue in events_of(track.shown_from(event.start, _end(event)))]
        for track in tracks
    }
    return {**event.to_dict(), **said}


def srt(events: Sequence[Event], tracks: Sequence[Track] = ()) -> str:
    """SubRip: numbered captions, times as ``00:00:12,000``."""
    return "\n".join(
        f"{number}\n{_clock(event.start, ',')} --> {_clock(_end(event), ',')}\n{_lines(event.text)}\n"
        for number, event in enumerate(events, 1)
    )


def vtt(events: Sequence[Event], tracks: Sequence[Track] = ()) -> str:
    """WebVTT; what would be markup in a text is escaped."""
    cues = [
        f"{_clock(event.start, '.')} --> {_clock(_end(event), '.')}\n{_escaped(_lines(event.text))}\n"
        for event in events
    ]
    return "\n".join(["WEBVTT\n", *cues])


def table(events: Sequence[Event], tracks: Sequence[Track] = ()) -> str:
    """CSV with a head: start, end, text, and for each track its kind: what was said or written at that time.

    A text that a spreadsheet would take for a formula gets an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("start", "end", "text", *(str(track.kind) for track in tracks)))
    for event in events:
        said = [" / ".join(c.text for c in track.within(event.start, _end(event))) for track in tracks]
        writer.writerow((f"{event.start:.3f}", f"{event.end:.3f}", *map(_cell, (event.text, *said))))
    return out.getvalue()


def _cell(text: str) -> str:
    line = " ".join(text.split())
    return f"'{line}" if text.startswith(SPREADSHEET_FORMULA) else line


def as_json(events: Sequence[Event], tracks: Sequence[Track] = ()) -> str:
    """``[{"start": 12.0, "end": 16.0, "text": "..."}]``; see :func:`with_words`."""
    rows = [with_words(event, tracks) for event in events]
    return without_surrogates(json.dumps(rows, indent=1)) + "\n"


Export = Callable[[Sequence[Event], Sequence[Track]], str]
"""Events as the text of a file. Captions hold the events alone; other forms also what the tracks say at that time."""
EXPORTS: dict[str, tuple[str, Export]] = {
    "srt": ("application/x-subrip", srt),
    "vtt": ("text/vtt", vtt),
    "csv": ("text/csv", table),
    "json": ("application/json", as_json),
}
"""By the end of a file's name: its media type, and what writes it."""


CAPTIONS = ("srt", "vtt")
"""Forms that hold one track: every other is a file of its own."""


def track_files(path: str, tracks: Sequence[Track]) -> dict[str, str]:
    """What stands beside captions at ``path``, by name: each track as such captions, ``film.speech.srt``."""
    stem, _, end = path.rpartition(".")
    if end.lower() not in CAPTIONS:
        return {}
    write = EXPORTS[end.lower()][1]
    return {f"{stem}.{track.kind}.{end}": write(events_of(track), ()) for track in tracks}


def exporter(path: str) -> Export:
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
