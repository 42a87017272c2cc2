"""Text on screen that was read before is taken from the user's cache."""

from __future__ import annotations

from dataclasses import replace

from videoxl.cues import Track
from videoxl.video import VideoSource
from videoxl.words.cache import TrackCache
from videoxl.words.screen import MAX_SIDE, MIN_CONFIDENCE, Progress, read_text
from videoxl.words.screen_ocr import MODEL

READING = 2
"""Version of how text is read: another number makes all tracks anew."""


def read_text_or_take_kept(
    source: VideoSource,
    *,
    fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
    min_confidence: float = MIN_CONFIDENCE,
    max_side: int = MAX_SIDE,
    cache: TrackCache | None = None,
    progress: Progress | None = None,
) -> Track:
    """The track that :func:`~videoxl.words.screen.read_text` makes, or made of the same file with the same settings.

    ``cache``: default that of the user. A video that is no file is always read.
    """
    kept = cache or TrackCache()
    settings: dict[str, object] = {"fps": fps, "start": start, "end": end, "min_confidence": min_confidence}
    settings["max_side"] = max_side
    digest = source.content_digest()
    made_from = {
        "kind": "screen", "file": digest, "stream": source.info.stream, "model": MODEL, "reading": READING, **settings
    }  # fmt: skip
    if digest and (track := kept.get(made_from)) is not None:
        return track
    track = read_text(
        source,
        fps=fps,
        start=start,
        end=end,
        min_confidence=min_confidence,
        max_side=max_side,
        progress=progress,
    )
    if digest and (problem := kept.put(made_from, track)):
        return replace(track, notes=(*track.notes, problem))
    return track
