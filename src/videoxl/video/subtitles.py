"""Subtitle files (SubRip ``.srt``, WebVTT ``.vtt``) as cues with times. Text only; no torch, no libraries.

Files are read as they are met rather than as they ought to be: both formats by the same rules, whatever the ending of
the name. A line with ``-->`` between two times begins a cue, a blank line ends it; all else is left out.
"""

from __future__ import annotations

import codecs
import html
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from videoxl.errors import VideoError, VideoNotFoundError

LARGEST_FILE = 16 << 20
"""Bytes. A day of dense subtitles has about four million."""
LONGEST_CUE = 2000
"""Characters kept of one cue; what is longer is no speech."""
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16 does: asked first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,6}))?"
TIME = re.compile(_TIME, re.ASCII)
ARROW = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$", re.ASCII)
TAG = re.compile(r"</?(?:[bius]|c|v|lang|ruby|rt|font|\d[\d:.]*)(?:[\s.][^<>]*)?>", re.IGNORECASE)
OVERRIDE = re.compile(r"\{\\[^{}]*\}")
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


@dataclass(frozen=True)
class Cue:
    """A text and when it is on screen, in seconds on the video's own clock. Raises ``ValueError`` for other times."""

    start_s: float
    end_s: float
    text: str

    def __post_init__(self) -> None:
        if not (0 <= self.start_s <= self.end_s and math.isfinite(self.end_s)):
            raise ValueError(f"a cue needs 0 <= start <= end in seconds, got {self.start_s} to {self.end_s}")


def read_subtitles(path: str | os.PathLike[str]) -> tuple[Cue, ...]:
    """The cues of a ``.srt`` or ``.vtt`` file, by begin. Cues may overlap.

    Its encoding is told by a byte order mark or by how the bytes lie; what is no UTF is read as Windows-1252.

    Raises ``VideoNotFoundError``, or ``VideoError`` (code ``bad_subtitles``) for what is no subtitle file.
    """
    name = os.path.basename(os.fspath(path))
    try:
        data = _bytes(Path(path))
    except FileNotFoundError:
        raise VideoNotFoundError(f"{path}: there is no such subtitle file") from None
    except (OSError, ValueError) as error:
        raise _bad(f"{name} cannot be read: {error}") from None
    cues = parse_subtitles(decode(data))
    if not cues:
        raise _bad(f"{name} holds no cue: give a .srt or .vtt file, with lines like 00:00:01,000 --> 00:00:02,500")
    return cues


def _bytes(path: Path) -> bytes:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE >> 20} MiB, which no subtitles are")
    return data


def decode(data: bytes) -> str:
    """Text of bytes in an unknown encoding; never fails."""
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    head = data[:4096]
    if head.count(0) > len(head) // 4:  # Latin text in UTF-16 has a zero in every other byte
        return data.decode("utf-16-be" if head[0::2].count(0) > head[1::2].count(0) else "utf-16-le", errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def parse_subtitles(text: str) -> tuple[Cue, ...]:
    """The cues in the text of a subtitle file, by begin; one that says the same on from the one before it is one with
    it. Never fails: what is no cue, ends before it begins or has no text is left out."""
    lines = re.sub(r"\r{0,2}\n", "\n", text).replace("\r", "\n").split("\n")
    found = sorted(_cues(lines), key=lambda cue: cue.start_s)
    merged: list[Cue] = []
    for cue in found:
        before = merged[-1] if merged else None
        if before and cue.text == before.text and cue.start_s <= before.end_s:
            merged[-1] = Cue(before.start_s, max(before.end_s, cue.end_s), cue.text)
        else:
            merged.append(cue)
    return tuple(merged)


def _cues(lines: Sequence[str]) -> Iterator[Cue]:
    times: tuple[float, float] | None = None
    said: list[str] = []
    for line in [*lines, ""]:
        arrow = ARROW.match(line) if "-->" in line else None
        if arrow is None and line.strip():
            said.append(line)
            continue
        if arrow and said and said[-1].strip().isdecimal():  # the next cue's number
            said.pop()
        if times and times[0] <= times[1] and (shown := clean(" ".join(said))):
            yield Cue(*times, shown)
        times = (seconds(arrow.groups()[:4]), seconds(arrow.groups()[4:])) if arrow else None
        said = []


def seconds(parts: Sequence[str | None]) -> float:
    """Of the groups that :data:`TIME` finds."""
    hours, minutes, whole, fraction = parts
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(whole or 0) + float(f"0.{fraction or 0}")


def clean(text: str) -> str:
    """What a viewer reads: no markup, no control characters, one space between words, of bounded length."""
    text = html.unescape(OVERRIDE.sub("", TAG.sub("", text)))
    return " ".join(UNSEEN.sub("", text).split())[:LONGEST_CUE].strip()


def _bad(message: str) -> VideoError:
    return VideoError(message, code="bad_subtitles")
