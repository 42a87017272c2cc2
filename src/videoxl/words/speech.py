"""Writes down what is said in a video: a track of cues with words, on the clock of its frames.

The sandboxed decoder decodes the sound; a speech model reads it piece by piece, so that memory does not grow with the
video. Voice activity detection always comes first: without it, models invent sentences where nobody speaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from videoxl.cues import SpokenCue, Track, TrackKind
from videoxl.errors import did_you_mean
from videoxl.video import VideoSource, open_video
from videoxl.video.sound import SAMPLE_RATE, Sound, SoundChunk
from videoxl.words.cache import TrackCache
from videoxl.words.speech_cues import Segment, cues_of, join, why_not_believed, words_of
from videoxl.words.speech_model import DEFAULT_SPEECH_MODEL, SpeechModel, load_speech_model, require_asr
from videoxl.words.speech_pauses import SPEECH, Spans, pauses, quiet, spoken, union, without_pauses
from videoxl.words.speech_pieces import Piece, pieces

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress("speech", seconds done, seconds in all or None)``."""
TEMPERATURES = (0.0, 0.4)
"""A part that came out badly is tried again with the second."""
MOST_TOKENS = 224
"""Of 30 seconds of speech. Who speaks fastest takes about 200."""
SURE_LANGUAGE = 0.5
"""A language that was found with this probability is kept for the rest of the video."""
CERTAIN_LANGUAGE = 0.8
NAMED_TIMES = 5


def transcribe(
    video: str | os.PathLike[str] | VideoSource,
    *,
    model: str | SpeechModel = DEFAULT_SPEECH_MODEL,
    language: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    audio_track: str | int | None = None,
    start: float | None = None,
    end: float | None = None,
    cache: bool | TrackCache = True,
    progress: Progress | None = None,
) -> Track:
    """Write down what is said.

    Args:
        video: a path, or an opened video.
        model, device, precision: see :func:`~videoxl.words.speech_model.load_speech_model`; or a loaded model.
        language: code of ISO 639-1 such as ``en``; default: found by the model.
        audio_track: number of a stream, or a language, in a file with several; default: the one for everybody.
        start, end: seconds of the video.
        cache: keep the track in the user's cache folder, and take it from there the next time.
        progress: called with ``"speech"`` and the seconds done and in all.

    The notes of the track say what a user should know: no sound, no speech, a damaged part, a doubtful language.
    Raises ``VideoError`` for a video or a track that cannot be read, ``CheckpointError`` for what is no speech model,
    ``MissingDependencyError`` without faster-whisper, and ``ValueError`` for other settings that are not possible.
    """
    begin_s, end_s = _span(start, end)
    which = _track_name(audio_track)
    with ExitStack() as stack:
        source = video if isinstance(video, VideoSource) else stack.enter_context(open_video(video))
        require_asr()
        before = set(source.warnings)
        if source.sound(which, 0.0, 0.0) is None:  # asked before the model: a silent video needs none
            return Track(TrackKind.SPEECH, (), notes=tuple(text for text in source.warnings if text not in before))
        loaded = load_speech_model(model, device=device, precision=precision) if isinstance(model, str) else model
        language = _checked_language(language, loaded)
        kept = cache if isinstance(cache, TrackCache) else TrackCache() if cache else None
        digest = source.content_digest() if kept else None
        made_from = {
            "kind": "speech",
            "file": digest,
            "stream": source.info.stream,
            "model": loaded.digest,
            "precision": loaded.precision,
            "language": language,
            "track": which,
            "span": [begin_s, end_s],
            "settings": [SPEECH, TEMPERATURES],
        }
        if kept and digest and (track := kept.get(made_from)) is not None:
            return track
        track = _transcribed(source, loaded, language, which, begin_s, end_s, progress or _silent)
        if kept and digest and (problem := kept.put(made_from, track)):
            return Track(track.kind, track.cues, track.language, track.source, (*track.notes, problem))
        return track


def _span(start: float | None, end: float | None) -> tuple[float, float | None]:
    for name, value in (("start", start), ("end", end)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a finite number of seconds, 0 or more, got {value!r}")
    if start is not None and end is not None and end <= start:
        raise ValueError(f"end must be later than start, got start={start:g}, end={end:g}")
    return float(start or 0.0), None if end is None else float(end)


def _track_name(audio_track: str | int | None) -> str:
    name = "" if audio_track is None else str(audio_track).strip()
    if isinstance(audio_track, bool) or (audio_track is not None and not name) or name.startswith("-"):
        raise ValueError(f"audio_track must be the number of a stream or a language, got {audio_track!r}")
    return name


def _checked_language(language: str | None, model: SpeechModel) -> str | None:
    if language is None:
        return None
    code, known = language.strip().lower(), model.languages
    if code in known:
        return code
    if len(known) == 1:
        raise ValueError(f"the model {model.name} knows only {known[0]}, got language={language!r}; use another model")
    raise ValueError(
        f"language must be a code that the model {model.name} knows (en, de, zh ...: {len(known)} of them), got "
        f"{language!r}{did_you_mean(code, known)}"
    )


def _silent(phase: str, done: int, total: int | None) -> None:
    """Tell nobody."""


def _transcribed(
    source: VideoSource,
    model: SpeechModel,
    language: str | None,
    which: str,
    begin_s: float,
    end_s: float | None,
    progress: Progress,
) -> Track:
    before = set(source.warnings)
    sound = source.sound(which, begin_s, end_s)
    hearing = _Hearing(model, language)
    assert sound is not None
    total = _seconds(sound, begin_s, end_s)
    for piece in pieces(_told(sound, begin_s, total, hearing, progress), pauses):
        hearing.hear(piece)
        progress("speech", round(piece.end_s - begin_s), total)
    if total is not None:
        progress("speech", total, total)
    notes = [*(text for text in source.warnings if text not in before), *hearing.notes()]
    return Track(
        TrackKind.SPEECH,
        tuple(hearing.cues),
        language=hearing.language or "",
        source=f"Whisper {model.name}, {sound.track}",
        notes=tuple(notes),
    )


def _seconds(sound: Sound, begin_s: float, end_s: float | None) -> int | None:
    ends = [end for end in (sound.end_s, end_s) if end is not None]
    return max(round(min(ends) - begin_s), 1) if ends else None


def _told(
    sound: Sound, begin_s: float, total: int | None, hearing: _Hearing, progress: Progress
) -> Iterator[SoundChunk]:
    progress("speech", 0, total)
    for chunk in sound.chunks:
        hearing.sound_s += len(chunk.samples_N) / SAMPLE_RATE
        yield chunk


@dataclass
class _Hearing:
    """One video while it is written down."""

    model: SpeechModel
    language: str | None
    """As it was asked for, or found so far."""
    cues: list[SpokenCue] = field(default_factory=list)
    sound_s: float = 0.0
    """Seconds of sound that there were."""
    _settled: bool = False
    _doubt: str | None = None
    _left_out: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._given = self.language is not None

    def hear(self, piece: Piece) -> None:
        """Write down a piece."""
        found = list(self._heard(piece))
        if piece.overlap_s:
            self.cues = join(self.cues, found, piece.start_s, piece.start_s + piece.overlap_s)
        else:
            self.cues += found

    def _heard(self, piece: Piece) -> Iterator[SpokenCue]:
        if not spoken(piece.samples_N):
            return
        silent = union(quiet(piece.samples_N), pauses(piece.samples_N))
        self._settle_language(piece)
        segments, _ = self.model.whisper.transcribe(
            piece.samples_N,
            language=self.language,
            vad_filter=True,
            vad_parameters=SPEECH,
            word_timestamps=True,
            condition_on_previous_text=False,
            temperature=list(TEMPERATURES),
            max_new_tokens=MOST_TOKENS,
            hallucination_silence_threshold=2.0,
        )
        for segment in segments:
            yield from self._believed(segment, piece, silent)

    def _believed(self, segment: Segment, piece: Piece, silent: Spans) -> Iterator[SpokenCue]:
        if why_not_believed(segment):
            self._left_out.append(piece.start_s + float(segment.start))
        else:
            words = words_of(segment, piece.start_s, piece.end_s)
            yield from cues_of(without_pauses(words, silent, piece.start_s), segment.text)

    def _settle_language(self, piece: Piece) -> None:
        """Find the language in the first piece in which it is clear, or compare with the one that was given."""
        if self._settled:
            return
        if len(self.model.languages) == 1:
            self.language, self._settled = self.model.languages[0], True
            return
        found, probability, _ = self.model.whisper.detect_language(
            piece.samples_N, vad_filter=True, vad_parameters=SPEECH, language_detection_segments=2
        )
        self._settled = probability >= SURE_LANGUAGE or self._given
        self._doubt = None
        if not self._given:
            self.language = found
            if probability < CERTAIN_LANGUAGE:
                self._doubt = (
                    f"its language seems to be {found} (probability {probability:.2f}); give another if it is not"
                )
        elif found != self.language and probability >= CERTAIN_LANGUAGE:
            self._doubt = (
                f"it sounds like {found} (probability {probability:.2f}), and was written down as {self.language}, "
                "which was asked for"
            )

    def notes(self) -> list[str]:
        """What a user should know."""
        said = [] if self._doubt is None else [self._doubt]
        if self._left_out:
            times = ", ".join(f"{at:.1f}" for at in self._left_out[:NAMED_TIMES])
            more = " ..." if len(self._left_out) > NAMED_TIMES else ""
            said.append(
                f"{len(self._left_out)} parts that could be speech were left out, since the model is not sure of them "
                f"(at {times}{more} s)"
            )
        if not self.cues:
            said.append("nobody speaks in its sound" if self.sound_s else "its sound track is empty")
        return said
