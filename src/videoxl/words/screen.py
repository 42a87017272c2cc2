"""Reads the text on screen in a video as a track of cues, each with its time, its place and its confidence.

Frames come from the sandboxed decoder at a rate. Only places that changed since they were last read are read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from videoxl.config import Sampling
from videoxl.cues import Track, TrackKind
from videoxl.video import Frames, Resize, VideoSource, open_video
from videoxl.video.frames import Pixels
from videoxl.words.screen_changes import Changes, regions, touched
from videoxl.words.screen_cues import cues_of
from videoxl.words.screen_lines import Line, Lines, covered
from videoxl.words.screen_ocr import MODEL, Box, Reading, TextReader, text_reader
from videoxl.words.screen_text import lacks_letters, unreadable

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress("text", frames done, frames in all or None)``."""
MIN_CONFIDENCE = 0.75
MAX_SIDE = 1920
DETECTED_SIDE = 736
"""The detector finds small letters in pictures whose shorter side has so many pixels. Smaller ones are enlarged."""
MOST_ENLARGED = 2.0
SHORT_TEXT = 2
"""So few letters are a text only if they were read surely: much looks like one letter."""
SURE = 0.9
MOST_FRAMES = 10_000_000
BATCH_FRAMES = 4


def read_text(
    video: str | os.PathLike[str] | VideoSource,
    *,
    fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
    min_confidence: float = MIN_CONFIDENCE,
    max_side: int = MAX_SIDE,
    progress: Progress | None = None,
) -> Track:
    """Read what is written on screen.

    A text that stays is one cue, from the first frame in which it was read to the first in which it was not. So is one
    that moves, or that is written on. Lines of one block that come and go together are one cue, with line feeds
    between.

    Args:
        video: a path, or an opened video.
        fps: frames per second that are looked at.
        start, end: seconds of the video.
        min_confidence: from 0 to 1; what was read less surely is left out and counted in the notes.
        max_side: longer sides of the picture, in pixels, are reduced to this.
        progress: called with ``"text"`` and the frames done and in all.

    Raises ``ValueError`` for settings that are not allowed, ``VideoError``, ``MissingDependencyError``.
    """
    if isinstance(min_confidence, bool) or not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence must be from 0 to 1, got {min_confidence!r}")
    if isinstance(max_side, bool) or not isinstance(max_side, int) or max_side < 64:
        raise ValueError(f"max_side must be a whole number of pixels of at least 64, got {max_side!r}")
    sampling = Sampling(fps=fps, max_frames=MOST_FRAMES, start=start, end=end)
    with ExitStack() as stack:
        source = video if isinstance(video, VideoSource) else stack.enter_context(open_video(video))
        reading = _ScreenReading(text_reader())
        reading.read(source, sampling, max_side, progress)
        return reading.track(source, sampling, min_confidence)


class _ScreenReading:
    """One video while it is read."""

    def __init__(self, reader: TextReader) -> None:
        self._reader = reader
        self._changes = Changes()
        self._lines = Lines()
        self._times: list[float] = []
        self._size = (1, 1)

    def read(self, source: VideoSource, sampling: Sampling, max_side: int, progress: Progress | None) -> None:
        selection = source.select(sampling)
        total = len(selection) or None
        for frames in source.read(
            selection, resize=_reduced(source.info.width, source.info.height, max_side), batch_frames=BATCH_FRAMES
        ):
            for picture, seconds in _pictures(frames):
                self._look(picture, seconds)
                if progress is not None:
                    progress("text", len(self._times), total)

    def _look(self, picture: Pixels, seconds: float) -> None:
        height, width = picture.shape[:2]
        self._size = (width, height)
        frame = len(self._times)
        self._times.append(seconds)
        changed = self._changes.look(picture)
        if not changed.any():
            self._lines.take([], [], frame)
            return
        asked = [line for line in self._lines.shown if touched(line.box, changed, line.reading.size)]
        looked_at = regions(changed, [line.box for line in asked], width, height)
        clean = [line.box for line in self._lines.shown if not line.missing and line not in asked]
        readings = [one for region in looked_at for one in self._read_region(picture, region, clean)]
        self._lines.take(readings, asked, frame)
        self._changes.was_read(looked_at)

    def _read_region(self, picture: Pixels, region: Box, clean: list[Box]) -> list[Reading]:
        left, top, right, bottom = (round(edge) for edge in region)
        scale = min(MOST_ENLARGED, max(1.0, DETECTED_SIDE / min(picture.shape[:2])))
        found = []
        for place in self._reader.places(picture[top:bottom, left:right], scale):
            place += (left, top)
            box = (*place.min(0).tolist(), *place.max(0).tolist())
            if any(covered(box, known) > 0.5 for known in clean):
                continue
            if (reading := self._reader.read(picture, place)) is not None:
                found.append(reading)
        return found

    def track(self, source: VideoSource, sampling: Sampling, min_confidence: float) -> Track:
        lines = self._lines.finish()
        good = [line for line in lines if _is_text(line, min_confidence)]
        end = self._end(source, sampling)
        cues = cues_of(good, lambda line: (self._times[line.first], self._time_after(line.last, end)), *self._size)
        return Track(TrackKind.SCREEN, cues, source=MODEL, notes=tuple(self._notes(lines, good)))

    def _time_after(self, frame: int, end: float) -> float:
        return self._times[frame + 1] if frame + 1 < len(self._times) else max(end, self._times[frame])

    def _end(self, source: VideoSource, sampling: Sampling) -> float:
        """When the last frame that was looked at leaves the screen, or reading ends."""
        last = self._times[-1] if self._times else 0.0
        ends = [end for end in (source.info.end, sampling.end) if end is not None]
        return min(ends) if ends else last + 1 / float(sampling.fps or 1.0)

    def _notes(self, lines: list[Line], good: list[Line]) -> list[str]:
        kept = {id(line) for line in good}
        left_out = [line for line in lines if id(line) not in kept]
        notes = []
        if left_out:
            first = self._times[left_out[0].first]
            notes.append(
                f"{len(left_out)} places that look like text were left out, the first at {first:.1f} s: they could not "
                "be read surely enough, or are in a script that the models do not know"
            )
        short = [line for line in good if lacks_letters(line.text, *_extent(line))]
        if short:
            first = self._times[short[0].first]
            notes.append(
                f"{len(short)} lines are longer than what was read of them, the first at {first:.1f} s: the models "
                "do not know Japanese kana"
            )
        return notes


def _is_text(line: Line, min_confidence: float) -> bool:
    reading = line.reading
    if reading.confidence < min_confidence or unreadable(reading.text):
        return False
    letters = sum(c.isalnum() for c in reading.text)
    if not letters:
        return False
    return letters > SHORT_TEXT or reading.confidence >= SURE


def _extent(line: Line) -> tuple[float, float]:
    left, top, right, bottom = line.reading.box
    return max(right - left, bottom - top), line.reading.size


def _pictures(frames: Frames) -> list[tuple[Pixels, float]]:
    return [(picture, float(seconds)) for picture, seconds in zip(frames.pixels_FHWC, frames.timestamps_F)]


def _reduced(width: int, height: int, max_side: int) -> Resize | None:
    longest = max(width, height)
    if longest <= max_side:
        return None
    return Resize(max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest)))
