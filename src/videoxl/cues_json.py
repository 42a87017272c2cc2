"""Tracks as JSON, and back. The text may come from anybody: every value is checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from annotated_types import Ge, Le, MaxLen

from videoxl.cues import Cue, ScreenCue, SpokenCue, SpokenWord, Track, TrackKind
from videoxl.settings import from_json
from videoxl.text import without_surrogates

Second = Annotated[float, Ge(0), Le(1e11)]
Share = Annotated[float, Ge(0), Le(1)]
Text = Annotated[str, MaxLen(1_000_000)]


@dataclass(frozen=True)
class _Word:
    start_s: Second
    end_s: Second
    text: Text
    probability: Share


@dataclass(frozen=True)
class _Cue:
    start_s: Second
    end_s: Second
    text: Text
    confidence: Share = 1.0
    words: tuple[_Word, ...] = ()
    box: tuple[Share, Share, Share, Share] | None = None


@dataclass(frozen=True)
class _Track:
    kind: TrackKind
    cues: tuple[_Cue, ...]
    language: Text = ""
    source: Text = ""
    notes: tuple[Text, ...] = ()


@dataclass(frozen=True)
class _Tracks:
    tracks: tuple[_Track, ...]


def track_dict(track: Track) -> dict[str, object]:
    """A track as plain values: ``kind``, ``language``, ``source``, ``notes`` and ``cues`` with times in seconds."""
    return {
        "kind": track.kind.value,
        "language": track.language,
        "source": track.source,
        "notes": list(track.notes),
        "cues": [asdict(cue) for cue in track.cues],
    }


def tracks_json(tracks: Sequence[Track]) -> str:
    """Tracks as JSON text. Lone surrogates, which names of files may hold, become U+FFFD."""
    data = {"tracks": [track_dict(track) for track in tracks]}
    return without_surrogates(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def tracks_from_json(text: str | bytes) -> tuple[Track, ...]:
    """The tracks in a text that :func:`tracks_json` wrote. Raises ``ValueError`` for anything else."""
    return tuple(
        Track(
            track.kind,
            tuple(_cue_of(track.kind, cue) for cue in track.cues),
            language=track.language,
            source=track.source,
            notes=track.notes,
        )
        for track in from_json(_Tracks, text, "tracks").tracks
    )


def _cue_of(kind: TrackKind, cue: _Cue) -> Cue:
    if kind is TrackKind.SPEECH:
        words = tuple(SpokenWord(word.start_s, word.end_s, word.text, word.probability) for word in cue.words)
        return SpokenCue(cue.start_s, cue.end_s, cue.text, words, cue.confidence)
    if kind is TrackKind.SCREEN:
        return ScreenCue(cue.start_s, cue.end_s, cue.text, cue.box or ScreenCue.box, cue.confidence)
    return Cue(cue.start_s, cue.end_s, cue.text)
