"""What is kept of one video: opened once, its tracks made or taken from where they are, and looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from videoxl.catalogue.entries import Entry, IndexedTrack, Made, Space, TrackName, Vectors
from videoxl.catalogue.frames import FrameModel, look, vectors_of
from videoxl.catalogue.passages import passages_of
from videoxl.catalogue.sentences import SentenceModel
from videoxl.cues import Track, TrackKind
from videoxl.errors import VideoError
from videoxl.inference.subtitles import cues_of
from videoxl.inference.video_input import open_for_model
from videoxl.memory.file.format import is_memory_file
from videoxl.memory.file.load import StoredMemory
from videoxl.video import VideoSource
from videoxl.video.local_file import file_digest, open_local

if TYPE_CHECKING:
    from videoxl.words.speech_model import SpeechModel

MakeTrack = Callable[[VideoSource], Track]
OF_MEMORY = "of the memory"


@dataclass(frozen=True, eq=False)
class TrackMaker:
    """Makes one track of a video."""

    kind: TrackKind
    settings: str
    """What the track depends on beside the video: a track of the same settings is not made again."""
    make: MakeTrack


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is kept of each video."""

    makers: tuple[TrackMaker, ...] = ()
    text_model: SentenceModel | None = None
    """None: texts are found by their words alone."""
    frames_model: FrameModel | None = None
    """None: no frames are found, but for memories that hold vectors of theirs."""
    fps: float = 1.0
    """Frames a second that ``frames_model`` looks at."""
    thumbnails: bool = True
    opening: Mapping[str, Any] | None = None
    """What ``open_video`` takes."""

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000:
            raise ValueError(f"fps must be above 0 and at most 1000 frames a second, got {self.fps}")


def subtitle_maker(which: str) -> TrackMaker:
    """Takes a subtitle track of each video: ``auto``, ``auto:3`` or ``auto:eng``."""

    def make(source: VideoSource) -> Track:
        return Track(TrackKind.SUBTITLES, cues_of(which, source), source=which)

    return TrackMaker(TrackKind.SUBTITLES, which, make)


def speech_maker(model: SpeechModel, language: str | None = None) -> TrackMaker:
    """Writes down what is said. ``language``: code of ISO 639-1; None: found by the model, for each video."""
    from videoxl.words.speech import transcribe

    settings = f"{model.digest} {model.precision}, {language or 'any language'}"
    return TrackMaker(TrackKind.SPEECH, settings, lambda source: transcribe(source, model=model, language=language))


def screen_maker(fps: float) -> TrackMaker:
    """Reads what is written on screen, at ``fps`` frames a second. Raises ``MissingDependencyError``."""
    from videoxl.words.screen import read_text
    from videoxl.words.screen_ocr import MODEL, text_reader

    text_reader()  # loads the models: what is missing is said before the first video
    settings = f"{MODEL}, {fps:g} frames a second"
    return TrackMaker(TrackKind.SCREEN, settings, lambda source: read_text(source, fps=fps))


def file_facts(path: str) -> Entry:
    """Path, digest, size and time of a file, and nothing that is in it. Raises ``VideoError``."""
    file = open_local(path)
    try:
        return Entry(os.path.abspath(path), file_digest(file.fd), file.size, file.mtime_ns)
    finally:
        file.close()


@dataclass(frozen=True)
class Missing:
    """What a video lacks of what is wanted."""

    makers: tuple[TrackMaker, ...] = ()
    vectors: tuple[TrackName, ...] = ()
    """Text tracks that are there, without vectors of the model that is wanted."""
    frames: bool = False
    thumbnails: bool = False
    memory: bool = False
    """What a memory file holds is still to be read."""

    def __bool__(self) -> bool:
        return bool(self.makers or self.vectors or self.frames or self.thumbnails or self.memory)


def missing_of(path: str, wanted: Wanted, made: Mapping[TrackName, Made] | None) -> Missing:
    """What is still to be done with a video. ``made``: its tracks; None: it was never read."""
    held = made or {}
    memory = is_memory_file(path)
    makers = () if memory else tuple(one for one in wanted.makers if _settings(held, one.kind.value) != one.settings)
    anew = {one.kind.value for one in makers}
    text, model = wanted.text_model, wanted.frames_model
    vectors: tuple[TrackName, ...] = ()
    if text is not None:
        others = [kind for kind, one in held.items() if one.cues and one.model != text.fingerprint]
        vectors = tuple(kind for kind in others if kind not in anew)
    frames = False
    if model is not None and not memory:
        there = held.get("frames")
        frames = there is None or (there.settings, there.model) != (frames_settings(wanted), model.fingerprint)
    return Missing(
        makers=makers,
        vectors=vectors,
        frames=frames,
        thumbnails=wanted.thumbnails and made is None and not memory,
        memory=memory and made is None,
    )


def _settings(made: Mapping[TrackName, Made], kind: str) -> str | None:
    return next((one.settings for name, one in made.items() if name == kind), None)


def frames_settings(wanted: Wanted) -> str:
    """How vectors of frames are made."""
    return f"{wanted.fps:g} frames a second"


def make_entry(facts: Entry, wanted: Wanted, missing: Missing, kept: Iterable[IndexedTrack] = ()) -> Entry:
    """Make what is missing of a video. ``kept``: the tracks that are there. Raises what reading a video raises."""
    again = [
        replace(one, vectors=text_vectors(wanted.text_model, one.track))
        for one in kept
        if one.kind in missing.vectors and one.track is not None
    ]
    if missing.memory:
        return _of_memory(facts, wanted)
    if not (missing.makers or missing.frames or missing.thumbnails):
        return replace(facts, tracks=tuple(again))
    with open_for_model(facts.path, **(wanted.opening or {})) as source:
        if source.digest not in (None, facts.digest):
            raise VideoError(f"{source.name}: has changed while it was read; index it again", code="undecodable")
        made = [*again, *(_made(source, maker, wanted.text_model) for maker in missing.makers)]
        seen = look(source, wanted.frames_model if missing.frames else None, wanted.fps, thumbnails=missing.thumbnails)
        if seen.vectors is not None:
            made.append(IndexedTrack("frames", frames_settings(wanted), vectors=seen.vectors))
        return replace(
            facts,
            duration=source.info.duration,
            tracks=tuple(made),
            thumbnails=seen.thumbnails,
            notes=tuple(text for text in source.warnings if text not in source.losses),
        )


def _made(source: VideoSource, maker: TrackMaker, model: SentenceModel | None) -> IndexedTrack:
    track = maker.make(source)
    return IndexedTrack(maker.kind.value, maker.settings, track, text_vectors(model, track))


def text_vectors(model: SentenceModel | None, track: Track) -> Vectors | None:
    """Vectors of the passages of a track."""
    passages = passages_of(track.cues) if model is not None else []
    if model is None or not passages:
        return None
    times = np.array([(one.start_s, one.end_s) for one in passages], np.float64)
    return Vectors(Space("text", model.name, model.fingerprint), times, model.of_texts([one.text for one in passages]))


def _of_memory(facts: Entry, wanted: Wanted) -> Entry:
    """What a memory file holds: its tracks, and the vectors of its frames where a SigLIP model looked at them."""
    stored = StoredMemory.open(facts.path)
    end = stored.groups[-1].end_s
    tracks = [
        IndexedTrack(track.kind.value, OF_MEMORY, track, text_vectors(wanted.text_model, track))
        for track in stored.tracks
    ]
    seen = stored.embeddings
    if seen is not None:
        # without a name it is the model's own
        space = Space("frames", seen.model or stored.model_id.name, seen.fingerprint)
        vectors = vectors_of(space, stored.timestamps, [seen.features_FD.numpy()], end)
        tracks.append(IndexedTrack("frames", OF_MEMORY, vectors=vectors))
    return replace(facts, duration=end, tracks=tuple(tracks))
