"""Subtitle files as cues with times.

SubRip (``.srt``) and WebVTT (``.vtt``) are read here by one set of rules, whatever the name of the file: many files
break their own format, and no library reads all of them. A line with ``-->`` between two times begins a cue, a blank
line ends it, and everything else is left out. SubViewer and YouTube's ``.sbv`` are alike, with a comma for the arrow.
All other formats are read by pysubs2.
"""

from __future__ import annotations

import codecs
import html
import math
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

import pysubs2

from videoxl.cues import Cue as Cue
from videoxl.errors import VideoError, VideoNotFoundError

MAX_FILE_BYTES = 16 << 20
"""A day of dense subtitles takes about four million bytes."""
MAX_CUE_CHARACTERS = 2000
"""The rest of a longer cue is left out."""
OTHER_FORMATS = ("ass", "ssa", "microdvd", "mpl2", "sami", "tmp", "ttml")
"""Formats of pysubs2 that are read: SubStation Alpha, MicroDVD, MPL2, SAMI, TMPlayer, TTML."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as that of UTF-16 does, so it is tried first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,6}))?"
TIME = re.compile(_TIME, re.ASCII)
ARROW = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$", re.ASCII)
TAG = re.compile(r"</?(?:[bius]|c|v|lang|ruby|rt|font|\d[\d:.]*)(?:[\s.][^<>]*)?>", re.IGNORECASE)
SPAN = re.compile(rf"^\s*{_TIME}\s*,\s*{_TIME}\s*$", re.ASCII)
"""Two times and a comma: how SubViewer and YouTube's .sbv begin a cue."""
LONG_NUMBER = re.compile(r"&#(?:\d{8,}|x[0-9a-f]{7,});?", re.IGNORECASE)
"""A character by a number that none has; Python refuses to read thousands of digits."""
STYLE_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)

TimedText = tuple[float, float, str]
"""(begin, end, text), in seconds."""


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)


def read_subtitles(
    path: str | os.PathLike[str], fps: float | None = None, tell: Callable[[str], None] = _warn
) -> tuple[Cue, ...]:
    """The cues of a subtitle file in the order in which they begin. Cues may overlap.

    ``fps``: frames per second, for MicroDVD files that count frames and do not say at what rate. The encoding is found
    by a byte order mark or by where the zeros are; what is not UTF-8, -16 or -32 is read as Windows-1252, and ``tell``
    is called with a sentence that says so.

    Raises ``VideoNotFoundError``, or ``VideoError`` (code ``bad_subtitles``) for what is not a subtitle file.
    """
    name = os.path.basename(os.fspath(path))
    try:
        data = _read_bytes(Path(path))
    except FileNotFoundError:
        raise VideoNotFoundError(f"{path}: there is no such subtitle file") from None
    except (OSError, ValueError) as error:
        raise _bad(f"{name} cannot be read: {error}") from None
    try:
        text, encoding = decode(data)
        cues = parse_subtitles(text, fps)
    except VideoError as error:
        raise _bad(f"{name} {error}") from None
    if not cues:
        raise _bad(
            f"{name} holds no cue: give a .srt or .vtt file, with lines like 00:00:01,000 --> 00:00:02,500, or a .ass, "
            ".ssa, .sub (MicroDVD, SubViewer), .sbv, .ttml or .smi file"
        )
    if encoding == "cp1252":
        tell(f"{name} is in no form of Unicode and was read as Windows-1252; if letters are wrong, save it as UTF-8")
    return cues


def _read_bytes(path: Path) -> bytes:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 20} MiB, which no subtitles are")
    return data


def decode(data: bytes) -> tuple[str, str]:
    """(text, name of its encoding) of bytes in an unknown encoding; never fails."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace"), encoding
    head = data[:4096]
    if head.count(0) > len(head) // 4:  # Latin text in UTF-16 has a zero in every other byte
        encoding = "utf-16-be" if head[0::2].count(0) > head[1::2].count(0) else "utf-16-le"
        return data.decode(encoding, errors="replace"), encoding
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), "cp1252"


def parse_subtitles(text: str, fps: float | None = None) -> tuple[Cue, ...]:
    """The cues in the text of a subtitle file, in the order in which they begin.

    A cue that repeats the one before it, without a pause, is joined to it. What is not a cue, ends before it begins or
    has no text is left out. Raises ``VideoError`` only for MicroDVD without a rate.
    """
    lines = re.sub(r"\r{0,2}\n", "\n", text).replace("\r", "\n").split("\n")
    return _joined(_arrow_cues(lines)) or _joined(_other_cues("\n".join(lines), fps))


def cues_from(texts: Iterable[TimedText]) -> tuple[Cue, ...]:
    """Cues of texts with markup, as :func:`parse_subtitles` gives them. Raises ``ValueError`` for impossible times."""
    return _joined((begin, end, shown) for begin, end, text in texts if (shown := plain_text(text)))


def _joined(texts: Iterable[TimedText]) -> tuple[Cue, ...]:
    """Cues in the order in which they begin; those that repeat the one before, without a pause, are joined to it."""
    joined: list[TimedText] = []
    for start_s, end_s, text in sorted(texts, key=itemgetter(0)):
        if joined and text == joined[-1][2] and start_s <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end_s), text)
        else:
            joined.append((start_s, end_s, text))
    return tuple(Cue(*text) for text in joined)


def _arrow_cues(lines: Sequence[str]) -> Iterator[TimedText]:
    """The texts of SubRip, WebVTT, SubViewer and .sbv."""
    times: tuple[float, float] | None = None
    texts: list[str] = []
    for line in [*lines, ""]:
        begun = _times_in(line) if ":" in line else None
        if begun is None and line.strip():
            texts.append(line)
            continue
        if begun and texts and texts[-1].strip().isdecimal():  # the next cue's number
            texts.pop()
        if times and times[0] <= times[1] and (shown := plain_text(" ".join(texts))):
            yield *times, shown
        times, texts = begun, []


@lru_cache(maxsize=64)
def _times_in(line: str) -> tuple[float, float] | None:
    """Begin and end, in seconds, where a line holds these; else None."""
    found = ARROW.match(line) if "-->" in line else SPAN.match(line)
    return (seconds_of(found.groups()[:4]), seconds_of(found.groups()[4:])) if found else None


def _other_cues(text: str, fps: float | None) -> Iterator[TimedText]:
    """The texts of any other format, which pysubs2 finds out."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about single bad lines
            subtitles = pysubs2.SSAFile.from_string(text, fps=fps)
    except pysubs2.UnknownFPSError:
        raise _bad("counts frames, but does not say how many a second: begin it with a line such as {1}{1}25") from None
    except Exception:  # noqa: BLE001  (no such format, or a damaged file: parsers may raise anything)
        return
    if subtitles.format not in OTHER_FORMATS:
        return
    for event in subtitles:
        start_s, end_s = event.start / 1000, event.end / 1000
        if not event.is_text or not 0 <= start_s <= end_s < math.inf:
            continue
        if shown := plain_text(event.plaintext):
            yield start_s, end_s, shown


def seconds_of(parts: Sequence[str | None]) -> float:
    """Seconds from the four groups of :data:`TIME`: hours, minutes, seconds, decimals."""
    hours, minutes, whole, decimals = parts
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(whole or 0) + float(f"0.{decimals or 0}")


@lru_cache(maxsize=64)
def plain_text(text: str) -> str:
    """What a viewer reads: no markup, no control characters, one space between words, of bounded length."""
    if "[" in text:
        text = text.replace("[br]", " ")  # SubViewer's line break
    if "<" in text:
        text = TAG.sub("", text)
    if "{" in text:
        text = STYLE_OVERRIDE.sub("", text)
    if "&" in text:
        text = html.unescape(LONG_NUMBER.sub("\ufffd", text))
    return " ".join(INVISIBLE.sub("", text).split())[:MAX_CUE_CHARACTERS].strip()


def _bad(message: str) -> VideoError:
    return VideoError(message, code="bad_subtitles")
