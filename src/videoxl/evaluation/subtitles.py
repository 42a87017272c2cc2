"""Find and read the subtitles of a benchmark's videos.

Video-MME has ``.srt`` files named like its videos. LongVideoBench has JSON files that its documents name; their times
are those of the longer video that each video was cut from.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoxl.errors import VideoError
from videoxl.video.subtitles import TIME, Cue, plain_text, read_subtitles, seconds_of

ENDINGS = (".srt", ".vtt", ".json")
BEGIN = "starting_timestamp_for_subtitles"
"""LongVideoBench's field for the time in the subtitles at which the video begins, in seconds."""


@dataclass(frozen=True)
class SubtitleFile:
    """A subtitle file, and the time in it at which the video begins, in seconds."""

    path: str
    begin_s: float = 0.0

    def cues(self) -> tuple[Cue, ...]:
        """Return the cues in times of the video, without those before it. Raises ``VideoError`` for a bad file."""
        read = _json_cues(self.path) if self.path.lower().endswith(".json") else read_subtitles(self.path)
        moved = ((cue, cue.start_s - self.begin_s, cue.end_s - self.begin_s) for cue in read)
        return tuple(Cue(max(start, 0.0), end, cue.text) for cue, start, end in moved if end >= 0)


def check_where(where: str) -> None:
    """Raise ``ValueError`` for what is neither a folder nor a pattern."""
    if "{" not in where and not os.path.isdir(where):
        raise ValueError(
            "subtitles must be a folder with a file per video, or a pattern such as 'subtitles/{videoID}.srt' with a "
            f"field of the benchmark's documents; {where!r} is neither"
        )


def subtitle_file(where: str, video: object, document: Mapping[str, object]) -> SubtitleFile | None:
    """Find the subtitle file of a video, by its name in a folder or by a pattern; None if there is none.

    Raises ``ValueError`` for a pattern with a field that the document does not have.
    """
    begin = document.get(BEGIN, 0.0)
    if "{" in where:
        try:
            paths = [where.format_map(document)]
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"subtitles={where!r} does not fit documents with {', '.join(document)}: {error}"
            ) from None
    elif isinstance(video, (str, os.PathLike)):
        paths = [os.path.join(where, Path(video).stem + ending) for ending in ENDINGS]
    else:
        return None
    found = next((path for path in paths if os.path.isfile(path)), None)
    return SubtitleFile(found, float(str(begin))) if found else None


def _json_cues(path: str) -> tuple[Cue, ...]:
    """Read LongVideoBench's form: ``{"timestamp": [1.0, 2.5], "text": ...}``, or
    ``{"start": "00:00:01.000", "end": ..., "line": ...}``.
    """
    try:
        cues = tuple(_cues(json.loads(Path(path).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        name = os.path.basename(path)
        raise VideoError(
            f"{name} holds no subtitles as LongVideoBench has them: {error}", code="bad_subtitles"
        ) from None
    return tuple(sorted(cues, key=lambda cue: cue.start_s))


def _cues(entries: list[dict[str, Any]]) -> Iterator[Cue]:
    for entry in entries:
        timed = "timestamp" in entry
        start, end = entry["timestamp"] if timed else (entry["start"], entry["end"])
        begin, text = _seconds(start), plain_text(str(entry["text" if timed else "line"]))
        stop = begin if end is None else _seconds(end)  # the last one of a file may have no end
        if text and 0 <= begin <= stop and math.isfinite(stop):
            yield Cue(begin, stop, text)


def _seconds(time: object) -> float:
    if isinstance(time, int | float):
        return float(time)
    match = TIME.fullmatch(str(time).strip())
    if match is None:
        raise ValueError(f"{time!r} is no time")
    return seconds_of(match.groups())
