"""Tracks of cues as files and on the terminal: SubRip, WebVTT, JSON, text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from videoxl.cli.output import print_json, say, tell

if TYPE_CHECKING:
    from videoxl.cues import Track

ENDS = (".srt", ".vtt", ".json", ".txt")
TRACK_FILE = ".json"
"""The end of a file that holds all of a track, and can be read again."""
MOST_BYTES = 1 << 28


def track_writer(path: str) -> Callable[[Track], bytes]:
    """What makes the content of a file of this name. Raises ``ValueError`` for a name with another end."""
    from videoxl.scenarios.exports import events_of, srt, vtt

    made: dict[str, Callable[[Track], str]] = {
        ".srt": lambda track: srt(events_of(track)),
        ".vtt": lambda track: vtt(events_of(track)),
        ".json": _json,
        ".txt": lambda track: "".join(f"{' '.join(cue.text.split())}\n" for cue in track.cues),
    }
    for end, make in made.items():
        if path.lower().endswith(end):
            return lambda track: make(track).encode(errors="replace")
    raise ValueError(f"{path}: the name must end with {', '.join(ENDS)}")


def track_from_file(path: str) -> Track:
    """The track in a JSON file. Raises ``ValueError`` for anything else."""
    from videoxl.cues_json import tracks_from_json

    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES >> 20} MiB, which no track has")
    try:
        (track,) = tracks_from_json(b'{"tracks":[' + data + b"]}")
    except ValueError as error:
        raise ValueError(f"{path} holds no track, as transcribe or read write it with -o name.json: {error}") from None
    return track


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
