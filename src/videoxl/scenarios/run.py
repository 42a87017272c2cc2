"""Ask a video, or a memory of one, what a scenario looks for, and place the answers on its time axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

from videoxl.config import DecodeStrategy, PrefillStrategy, Sampling
from videoxl.cues import Track
from videoxl.inference.answers import Answer
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.decode.siglip import watching
from videoxl.inference.engine import VideoXL
from videoxl.inference.evidence_spans import EvidenceSpan
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.inference.progress import as_progress
from videoxl.inference.request import words_of
from videoxl.inference.subtitles import check_place
from videoxl.memory.video_memory import VideoMemory
from videoxl.scenarios.events import Event, clipped, denies, merge, parse_events
from videoxl.scenarios.exports import with_words
from videoxl.scenarios.passes import Pass, plan_passes
from videoxl.scenarios.prompt import scenario_prompt
from videoxl.video import VideoSource

OVERLAP = 30.0
"""Seconds that two passes share: about the length of an advertisement."""
UNTIMED_FRAMES = 32
"""Frames of a pass for a model that is told no times. It can only say what happens in a pass, so passes are short."""
MERGE_GAP = 1.0
"""Seconds between two events of the same words that still count as one."""


@dataclass(frozen=True)
class Scenario:
    """What is looked for."""

    name: str
    max_frames: int
    """Default frames of one pass: fewer where exact times matter more than what went before."""
    max_new_tokens: int
    untimed_answer_counts: bool = True
    """Whether an answer that names no time is an event as long as the pass. Otherwise it finds nothing."""
    may_find_nothing: bool = True
    """Whether an answer that begins with "No" finds nothing."""
    of_a_memory: bool = True
    """Whether a memory can be asked; it is one pass, however long."""


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("ground", 512, 128, untimed_answer_counts=False),
        Scenario("find-ads", 1024, 512),
        Scenario("find-anomalies", 512, 512),
        Scenario("summarize", 1024, 1024),
        Scenario("captions", 32, 128, may_find_nothing=False, of_a_memory=False),
    )
}


class SamplingSettings(TypedDict, total=False):
    """Settings of :class:`Sampling` by name. None is the same as leaving one out."""

    fps: float | None
    max_fps: float | None
    max_frames: int | None
    num_frames: int | None
    start: float | None
    end: float | None


@dataclass(frozen=True)
class Reply:
    """What the model said about one pass."""

    start: float
    """Seconds at which the pass begins and ends."""
    end: float
    text: str
    events: int
    """How many events the text names."""
    frames: int
    seconds: float
    """What reading and answering took."""
    evidence: tuple[EvidenceSpan, ...] = ()
    """Where the tokens of the text looked."""


@dataclass(frozen=True)
class Timeline:
    """What was found in a video. Times are seconds of the video."""

    scenario: str
    video: str
    model: str
    begin: float
    end: float
    question: str
    events: tuple[Event, ...]
    replies: tuple[Reply, ...]
    warnings: tuple[str, ...] = ()
    event: str | None = None
    """What ``ground`` looked for."""
    tracks: tuple[Track, ...] = ()
    """Subtitles, speech and text on screen that were read with the frames."""

    def to_list(self) -> list[dict[str, object]]:
        """Return ``[{"start": 12.0, "end": 16.0, "text": "..."}]``, times in seconds.

        With tracks, each event also has the cues of its time by kind: ``"speech": [{"start": ...}]``.
        """
        return [with_words(event, self.tracks) for event in self.events]


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How every pass over a video is read and asked."""

    question: str
    sampling: SamplingSettings
    prefill: PrefillStrategy | str | None
    kv_dtype: str | None
    decode: DecodeStrategy | str | None
    tracks: Sequence[Track]
    overlap: float
    max_new_tokens: int
    progress: bool
    tell: Callable[[str], None] | None


def run_scenario(
    engine: VideoXL,
    video: VideoSource | VideoMemory,
    name: str,
    *,
    event: str | None = None,
    sampling: SamplingSettings | None = None,
    prefill: PrefillStrategy | str | None = None,
    kv_dtype: str | None = None,
    decode: DecodeStrategy | str | None = None,
    subtitles: object = None,
    tracks: Sequence[Track | str] = (),
    overlap: float = OVERLAP,
    max_new_tokens: int | None = None,
    progress: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Timeline:
    """Look for something in an opened video, read in as many passes as it takes, or in a memory.

    Args:
        name: one of :data:`SCENARIOS`.
        event: what ``ground`` looks for.
        sampling: which frames to read. ``max_frames`` holds for one pass; ``num_frames`` asks for one pass over the
            whole video, however coarse.
        subtitles, tracks: of an opened video, as in ``encode``. Each pass reads what is said and written in it. A
            memory has its own.
        overlap: seconds that two passes share.
        tell: called with a sentence before each pass.

    Raises ``ValueError`` for settings that contradict each other, ``VideoError`` for a video that cannot be read.
    """
    scenario = SCENARIOS[name]
    if (name == "ground") != bool(event and event.strip()):
        raise ValueError("ground looks for an event, described in words; no other scenario does")
    timed = bool(engine.config.time_format)
    question = scenario_prompt(name, engine.name, event, timed=timed)
    tokens = max_new_tokens or scenario.max_new_tokens
    if isinstance(video, VideoMemory):
        if not scenario.of_a_memory:
            raise ValueError(f"{name} reads a video in short stretches, and a memory holds all at once: give the video")
        whole = Pass(video.groups[0].start_s, video.groups[-1].end_s)
        answer = engine.ask(video, question, decode=decode, max_new_tokens=tokens)
        answered: Sequence[tuple[Pass, Answer]] = [(whole, answer)]
        source, words = str(video.usage.source), video.tracks
    else:
        if tracks:  # before they are made, which takes long
            check_place(engine.config.family, engine.config.time_format, still=video.is_still)
        words = words_of(video, subtitles, tracks, as_progress(progress))
        reading = _Reading(
            question=question,
            sampling=_pass_sampling(sampling or {}, scenario.max_frames if timed else UNTIMED_FRAMES),
            prefill=prefill,
            kv_dtype=kv_dtype,
            decode=decode,
            tracks=words,
            overlap=overlap,
            max_new_tokens=tokens,
            progress=progress,
            tell=tell,
        )
        answered = list(_ask_passes(engine, video, reading))
        source = video.name
    found = [read_answer(answer.text, part, scenario, event, timed=timed) for part, answer in answered]
    replies = [_reply(part, answer, len(events)) for (part, answer), events in zip(answered, found)]
    return Timeline(
        scenario=name,
        video=source,
        model=engine.name,
        begin=min(reply.start for reply in replies),
        end=max(reply.end for reply in replies),
        question=question,
        events=tuple(merge(found, gap=MERGE_GAP)),
        replies=tuple(replies),
        warnings=tuple(dict.fromkeys(warning for _, answer in answered for warning in answer.warnings)),
        event=event,
        tracks=words,
    )


def read_answer(
    text: str, part: Pass, scenario: Scenario, event: str | None = None, *, timed: bool = True
) -> list[Event]:
    """Return the events that an answer about one pass names. ``timed``: whether the model was told times."""
    if not text.strip() or (scenario.may_find_nothing and denies(text)):
        return []
    events = parse_events(text) if timed else []
    if not events and (scenario.untimed_answer_counts or not timed):
        events = [Event(*part, " ".join(text.split()))]
    named = [Event(e.start, e.end, event.strip() if event else e.text) for e in events]
    return clipped(named, *part)


def passes_of(source: VideoSource, sampling: SamplingSettings, overlap: float, frames_per_group: int = 1) -> list[Pass]:
    """Return the passes over an opened video. There is one if its length is unknown or ``num_frames`` is given."""
    chosen = Sampling(**sampling)
    whole = source.info.end or 0.0
    begin = max(chosen.start or 0.0, source.info.start)
    end = min(whole, chosen.end or whole)
    if chosen.num_frames is not None or not end > begin:
        return [Pass(begin, max(begin, end))]
    fps = max(chosen.max_fps or 0.0, chosen.fps or Sampling.DEFAULT_FPS)
    max_frames = chosen.max_frames or Sampling.DEFAULT_MAX_FRAMES
    return plan_passes(begin, end, fps=fps, max_frames=max_frames, overlap=overlap, group=frames_per_group / fps)


def _pass_sampling(given: SamplingSettings, max_frames: int) -> SamplingSettings:
    """Fill in ``max_frames`` unless the number of frames was given."""
    if given.get("num_frames") is not None or given.get("max_frames") is not None:
        return given
    return {**given, "max_frames": max_frames}


def _ask_passes(engine: VideoXL, source: VideoSource, reading: _Reading) -> Iterator[tuple[Pass, Answer]]:
    strategy = for_question(choose_prefill(reading.prefill, engine.config), reading.question)
    decode = choose_decode(reading.decode, engine.config)
    passes = passes_of(source, reading.sampling, reading.overlap, engine.config.frames_per_group)
    for number, part in enumerate(passes, 1):
        sampling = reading.sampling
        if len(passes) > 1:
            sampling = {**sampling, "start": part.start, "end": part.end}
            if reading.tell:
                reading.tell(f"pass {number} of {len(passes)}: {part.start:.1f}s to {part.end:.1f}s")
        memory = engine.encode(
            source,
            **sampling,
            prefill=strategy,
            kv_dtype=reading.kv_dtype,
            tracks=[track.shown_from(part.start, part.end) for track in reading.tracks],
            progress=reading.progress,
        )
        answer = engine.ask(
            memory,
            reading.question,
            decode=watching(decode, memory, source, {}),
            max_new_tokens=reading.max_new_tokens,
        )
        yield part, answer


def _reply(part: Pass, answer: Answer, events: int) -> Reply:
    seconds = round(sum(answer.usage.seconds.values()), 3)
    return Reply(*part, answer.text, events, answer.usage.frames, seconds, answer.evidence)
