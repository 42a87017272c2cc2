"""Which tracks of words are read with the frames, by name or as values, and what a memory keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from videoxl.cues import Cue, Track, TrackKind
from videoxl.inference.progress import Progress
from videoxl.inference.subtitles import AUTO, cues_of
from videoxl.video import VideoSource

KINDS = tuple(kind.value for kind in TrackKind)


def tracks_of(
    tracks: object, source: VideoSource, progress: Progress | None = None, *, speech_model: str | None = None
) -> tuple[Track, ...]:
    """The tracks that are meant, each made of the opened video where it is given by name.

    ``tracks``: a sequence of :class:`Track` and names: ``subtitles`` is the video's own subtitle track, ``speech`` what
    is said, ``screen`` what is written. Their notes are added to the warnings of ``source``. Raises ``ValueError`` for
    anything else, ``MissingDependencyError`` for what is not installed.
    """
    if isinstance(tracks, str) or not isinstance(tracks, Sequence):
        raise ValueError(f"tracks must be a list of {', '.join(KINDS)} or of Track, got {tracks!r}")
    wanted = [_checked(track) for track in tracks]
    kinds = [track.kind if isinstance(track, Track) else TrackKind(track) for track in wanted]
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"each kind of track can be given once, got {', '.join(kinds)}")
    found = tuple(t if isinstance(t, Track) else _made(TrackKind(t), source, progress, speech_model) for t in wanted)
    for note in chain.from_iterable(track.notes for track in found):
        source.note(note)
    return found


def _checked(track: object) -> Track | str:
    if isinstance(track, Track) or (isinstance(track, str) and track in KINDS):
        return track
    raise ValueError(f"a track must be one of {', '.join(KINDS)}, or a Track, got {track!r}")


def _made(kind: TrackKind, source: VideoSource, progress: Progress | None, speech_model: str | None) -> Track:
    if kind is TrackKind.SUBTITLES:
        return Track(kind, cues_of(AUTO, source), source=AUTO)
    if kind is TrackKind.SPEECH:
        from videoxl.words.speech import transcribe
        from videoxl.words.speech_model import DEFAULT_SPEECH_MODEL

        return transcribe(source, model=speech_model or DEFAULT_SPEECH_MODEL, progress=progress)
    from videoxl.words.screen_kept import read_text_or_take_kept

    return read_text_or_take_kept(source, progress=progress)


def with_subtitles(tracks: Sequence[Track], cues: Sequence[Cue] | None, source: str) -> tuple[Track, ...]:
    """Tracks and subtitles that were given beside them. Raises ``ValueError`` where both hold subtitles."""
    if cues is None:
        return tuple(tracks)
    if any(track.kind is TrackKind.SUBTITLES for track in tracks):
        raise ValueError("subtitles are given twice: by subtitles=... and among tracks=...; leave one of them out")
    return (Track(TrackKind.SUBTITLES, tuple(cues), source=source), *tracks)


def read_part(tracks: Sequence[Track], start_s: float, end_s: float) -> tuple[Track, ...]:
    """Tracks as a memory keeps them: with the cues of the part of the video that it covers."""
    return tuple(track.shown_from(start_s, end_s) for track in tracks)


def grown(earlier: Sequence[Track], later: Sequence[Track], known_end_s: float) -> tuple[Track, ...]:
    """Tracks of a memory that goes on: of ``later`` ones, the cues that begin at ``known_end_s`` or after it."""
    new = {track.kind: replace(track, cues=tuple(c for c in track.cues if c.start_s >= known_end_s)) for track in later}
    joined = [
        replace(track, cues=(*track.cues, *new.pop(track.kind).cues)) if track.kind in new else track
        for track in earlier
    ]
    return (*joined, *new.values())
