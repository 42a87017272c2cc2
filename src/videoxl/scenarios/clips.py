"""Stretches of a video as files: which stretches, under which names, and how each was made."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from videoxl.errors import VideoError, VideoXLError
from videoxl.json_lines import read_json_lines
from videoxl.memory.file.atomic import replacing
from videoxl.scenarios.timeline import fine_clock
from videoxl.video.clip import HOW, clip_to
from videoxl.video.source import VideoSource

if TYPE_CHECKING:
    from videoxl.video.decoder.messages import ClipFormat, ClipHow

FORMATS: dict[str, ClipFormat] = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mp4", ".mkv": "matroska"}
"""The end of a clip's name -> its container."""
_TIME = r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d+)?)"
_SPAN = re.compile(rf"\s*{_TIME}\s*(?:-|–|to)\s*{_TIME}\s*", re.IGNORECASE)


class Span(NamedTuple):
    """From ``start`` to ``end``, in seconds of the video."""

    start: float
    end: float


@dataclass(frozen=True)
class Clip:
    """A clip that was written. Times are seconds of the video it was taken from."""

    path: str
    start: float
    """When its first picture begins: the one on screen at the time that was asked for, or, with ``how="copy"``, the key
    frame before it."""
    end: float
    """When its last picture ends. A copy may end some pictures late, where those before are made of them."""
    frames: int
    copied: bool
    """Whether its pictures are those of the video, bit for bit; else they were encoded anew."""
    notes: tuple[str, ...] = ()
    """What is not in it."""

    def to_dict(self) -> dict[str, object]:
        """All fields as JSON-ready values."""
        return {**asdict(self), "start": round(self.start, 6), "end": round(self.end, 6), "notes": list(self.notes)}

    def __str__(self) -> str:
        made = "copied" if self.copied else "encoded anew"
        return f"{self.path}: {fine_clock(self.start)} - {fine_clock(self.end)}, {self.frames:,} frames, {made}"


def parse_span(text: str) -> Span:
    """Read ``12-16``, ``12.5-16``, ``1:02-1:10`` or ``0:01:02-0:01:10``. Raises ``ValueError``."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f"--span {text!r} is no stretch: give 12-16 (seconds), or 1:02:03.5-1:02:10")
    return _ascending(_seconds(*found.groups()[:3]), _seconds(*found.groups()[3:]), text)


def _seconds(hours: str | None, minutes: str | None, seconds: str) -> float:
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds)


def _ascending(start: float, end: float, what: str) -> Span:
    if not 0 <= start < end < float("inf"):
        raise ValueError(f"{what}: a stretch reaches from a time to a later one, this from {start:g} s to {end:g} s")
    return Span(start, end)


def spans_of_records(path: str, *, every: bool) -> dict[str, list[Span]]:
    """The stretches that a file of records names, by their video; ``""`` for records that name none.

    The file is what ``ask -o`` or ``ask --json`` wrote (of each answer the stretch that its tokens looked at most;
    with ``every`` all of them), or the events of a scenario. Raises ``ValueError`` for anything else.
    """
    found: dict[str, list[Span]] = {}
    for number, record in enumerate(_records(path), 1):
        place = f"{path}, record {number}"
        if "evidence" in record:
            looked = record["evidence"] if isinstance(record["evidence"], list) else []
            stretches = looked if every else looked[:1]
        elif "start" in record and "end" in record:
            stretches = [record]
        else:
            raise ValueError(f"{place}: has neither evidence nor start and end: give what ask or ground wrote as JSON")
        video = record.get("video") or ""
        found.setdefault(video if isinstance(video, str) else "", []).extend(_span(one, place) for one in stretches)
    if not any(found.values()):
        raise ValueError(f"{path} names no stretch of a video")
    return found


def _records(path: str) -> Sequence[dict[str, Any]]:
    if path.lower().endswith(".jsonl"):
        return [record for _, record in read_json_lines(path, ValueError)]
    try:
        found = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    records = found if isinstance(found, list) else [found]
    if not all(isinstance(one, dict) for one in records):
        raise ValueError(f"{path} must hold a list of records")
    return records


def _span(stretch: object, place: str) -> Span:
    start, end = (stretch.get(name) if isinstance(stretch, dict) else None for name in ("start", "end"))
    if not isinstance(start, int | float) or not isinstance(end, int | float):
        raise ValueError(f"{place}: start and end must be seconds")
    return _ascending(float(start), max(float(end), float(start) + 0.001), place)


def with_margin(spans: Iterable[Span], margin: float) -> list[Span]:
    """The spans, each once, wider by ``margin`` seconds on both sides."""
    return list(dict.fromkeys(Span(max(0.0, span.start - margin), span.end + margin) for span in spans))


def clip_format(path: str | os.PathLike[str]) -> ClipFormat:
    """The container that a name asks for. Raises ``ValueError``."""
    found = FORMATS.get(Path(path).suffix.lower())
    if found is None:
        raise ValueError(f"{path}: the name of a clip must end with {', '.join(FORMATS)}")
    return found


def check_how(how: str) -> ClipHow:
    """Raise ``ValueError`` for a word that says nothing about how a clip is made."""
    if how not in HOW:
        raise ValueError(f"--how must be one of {', '.join(HOW)}, got {how!r}")
    return cast("ClipHow", how)


def write_clip(source: VideoSource, span: Span, path: str | os.PathLike[str], *, how: str = "auto") -> Clip:
    """Write what is on screen during ``span``, with its sound and subtitles, to ``path``.

    Args:
        source: an opened video file.
        how: ``auto`` copies the pictures where the stretch begins at a key frame, else encodes them anew (H.264), with
            times exact to a frame; ``copy`` copies from the key frame before; ``encode`` always encodes.

    The file is replaced whole or stays as it was. Raises ``VideoError``, ``ValueError``.
    """
    form, chosen = clip_format(path), check_how(how)
    try:
        with replacing(path, 0) as descriptor:
            facts = clip_to(source, *span, descriptor, form, chosen)
    except VideoXLError as error:
        if isinstance(error.__cause__, OSError):  # the file, not the video
            raise ValueError(f"{path} was not written: {error.__cause__}") from error
        raise
    return Clip(str(path), facts.start, facts.end, facts.frames, facts.copied, facts.notes)


def write_clips(
    source: VideoSource,
    spans: Sequence[Span],
    folder: str | os.PathLike[str],
    *,
    how: str = "auto",
    overwrite: bool = False,
) -> Iterator[Clip | VideoError]:
    """Write each span to a file in ``folder``, named after the video and the times.

    Yields each clip, or why there is none. Raises ``ValueError`` for a file that is there already.
    """
    paths = [Path(folder) / clip_name(source, span) for span in spans]
    if not overwrite:
        refuse_existing(paths)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for span, path in zip(spans, paths):
        try:
            yield write_clip(source, span, path, how=how)
        except VideoError as error:
            if error.code in ("decoder_died", "decode_timeout"):
                raise
            yield error


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raise ``ValueError`` if one of the files is there."""
    for path in paths:
        if path.exists():
            raise ValueError(f"{path} is there already: --overwrite replaces it")


def clip_name(source: VideoSource, span: Span) -> str:
    """``film_12.000-16.000.mp4``; ``.mkv``, which holds anything, unless the video is an MP4 or MOV."""
    end = ".mp4" if "mp4" in source.info.container.split(",") else ".mkv"
    stem = re.sub(r"[^\w.-]+", "-", Path(source.name).stem)[:100].strip("-.") or "video"
    return f"{stem}_{span.start:.3f}-{span.end:.3f}{end}"
