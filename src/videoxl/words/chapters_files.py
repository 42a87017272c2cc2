"""Chapters as files: WebVTT, JSON, a list for a description on YouTube, and FFmpeg's metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from videoxl.text import visible, without_surrogates
from videoxl.words.chapters import Chapter

Chaptered = Sequence[Chapter]
SPECIAL = re.compile(r"[=;#\\]")
"""What FFmpeg's metadata wants a backslash before."""


def chapter_list(chapters: Chaptered) -> str:
    """Lines such as ``1:02:03 Title``, the first at 0:00, as YouTube reads them."""
    starts = [0.0, *(chapter.start_s for chapter in chapters[1:])]
    return "".join(f"{_clock(start)} {_line(chapter.title)}\n" for start, chapter in zip(starts, chapters))


def chapters_json(chapters: Chaptered) -> str:
    """``[{"start": 0.0, "end": 62.5, "title": "..."}]``."""
    text = json.dumps(chapter_dicts(chapters), ensure_ascii=False, indent=1, allow_nan=False)
    return without_surrogates(text) + "\n"


def chapter_dicts(chapters: Chaptered) -> list[dict[str, object]]:
    """Chapters as plain values, with times rounded to milliseconds."""
    return [{"start": round(c.start_s, 3), "end": round(c.end_s, 3), "title": c.title} for c in chapters]


def chapters_vtt(chapters: Chaptered) -> str:
    """WebVTT, for a track of kind ``chapters``; what would be markup is escaped."""
    cues = [f"{_exact(c.start_s)} --> {_exact(c.end_s)}\n{_markup_free(_line(c.title))}\n" for c in chapters]
    return "\n".join(["WEBVTT\n", *cues])


def chapters_metadata(chapters: Chaptered) -> str:
    """What ``ffmpeg -i film.mp4 -i film.ffmetadata -map_metadata 1 -codec copy out.mp4`` takes."""
    parts = [
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={round(1000 * c.start_s)}\nEND={round(1000 * c.end_s)}\n"
        f"title={SPECIAL.sub(_with_backslash, _line(c.title))}\n"
        for c in chapters
    ]
    return ";FFMETADATA1\n" + "".join(parts)


WRITERS: dict[str, Callable[[Chaptered], str]] = {
    ".vtt": chapters_vtt,
    ".json": chapters_json,
    ".txt": chapter_list,
    ".ffmetadata": chapters_metadata,
}
"""By the end of a file's name."""


def chapters_writer(path: str) -> Callable[[Chaptered], str]:
    """What makes the content of a file of this name. Raises ``ValueError`` for a name with another end."""
    for end, write in WRITERS.items():
        if path.lower().endswith(end):
            return write
    raise ValueError(f"{path}: the name must end with {', '.join(WRITERS)}")


def _with_backslash(found: re.Match[str]) -> str:
    return "\\" + found[0]


def _line(title: str) -> str:
    """A title on one line, without what a program would obey."""
    return visible(" ".join(title.split()), lines=False).replace("-->", "->") or "-"


def _markup_free(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _exact(seconds: float) -> str:
    milliseconds = max(0, round(1000 * seconds))
    whole = milliseconds // 1000
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{milliseconds % 1000:03d}"
