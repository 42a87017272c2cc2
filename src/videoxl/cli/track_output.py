"""Tracks of cues as files and on the terminal: SubRip, WebVTT, JSON, text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from videoxl.cli.output import print_json, say, tell

if TYPE_CHECKING:
    from videoxl.cues import Track
    from videoxl.scenarios.events import Event

ENDS = (".srt", ".vtt", ".json", ".txt")


def track_writer(path: str) -> Callable[[Track], bytes]:
    """What makes the content of a file of this name. Raises ``ValueError`` for a name with another end."""
    from videoxl.scenarios.exports import srt, vtt

    made: dict[str, Callable[[Track], str]] = {
        ".srt": lambda track: srt(_events(track)),
        ".vtt": lambda track: vtt(_events(track)),
        ".json": _json,
        ".txt": lambda track: "".join(f"{' '.join(cue.text.split())}\n" for cue in track.cues),
    }
    for end, make in made.items():
        if path.lower().endswith(end):
            return lambda track: make(track).encode(errors="replace")
    raise ValueError(f"{path}: the name must end with {', '.join(ENDS)}")


def _events(track: Track) -> list[Event]:
    from videoxl.scenarios.events import Event

    return [Event(cue.start_s, cue.end_s, cue.text) for cue in track.cues]


def _json(track: Track) -> str:
    from videoxl.cues_json import track_dict
    from videoxl.text import without_surrogates

    return without_surrogates(json.dumps(track_dict(track), ensure_ascii=False, indent=1, allow_nan=False)) + "\n"


def show_track(track: Track, path: str | None, *, as_json: bool, quiet: bool) -> None:
    """Write a track to a file, or print it; its notes go to stderr."""
    from videoxl.cues_json import track_dict

    for note in track.notes:
        tell("note", note)
    if path is not None:
        from videoxl.evaluation.log import write_bytes

        write_bytes(path, track_writer(path)(track))
        if not quiet and not as_json:
            tell("note", f"{path}: {len(track.cues)} cues")
    if as_json:
        print_json(track_dict(track))
    elif path is None:
        for cue in track.cues:
            say(f"{_clock(cue.start_s)} - {_clock(cue.end_s)}  {' '.join(cue.text.split())}")


def _clock(seconds: float) -> str:
    """``0:01:02.3``."""
    tenths = round(seconds * 10)
    return f"{tenths // 36_000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"
