"""Ask a video, or a memory of one, for what a scenario looks for, and put the answers on its time axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videoxl.config import DecodeStrategy, PrefillStrategy, Sampling
from videoxl.evaluation.prompts import scenario_prompt
from videoxl.evaluation.samples import Tell
from videoxl.inference.answers import Answer
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.decode.siglip import watching
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.inference.subtitles import cues_of
from videoxl.memory.video_memory import VideoMemory
from videoxl.scenarios.events import Event, clipped, denies, merge, parse_events
from videoxl.scenarios.passes import Pass, plan_passes
from videoxl.video import VideoSource
from videoxl.video.subtitles import Cue

OVERLAP = 30.0
"""Seconds that two passes share: about the length of an advertisement."""
UNTIMED_FRAMES = 32
"""Frames of a pass for a model that is told no times: a pass is then all that it can say about when."""


@dataclass(frozen=True)
class Scenario:
    """What is looked for."""

    name: str
    max_frames: int
    """Frames of one pass, unless asked for otherwise: fewer where exact times matter more than what went before."""
    max_new_tokens: int
    places: bool = True
    """Whether an answer that names no time is about the pass as a whole; else it is no finding."""


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("ground", 512, 128, places=False),
        Scenario("find-ads", 1024, 512),
        Scenario("find-anomalies", 512, 512),
        Scenario("summarize", 1024, 1024),
    )
}


@dataclass(frozen=True)
class Reply:
    """What the model said about one pass."""

    start: float
    end: float
    text: str
    events: int
    """How many events were read out of it."""
    frames: int
    seconds: float
    """That reading and answering took."""


@dataclass(frozen=True)
class Timeline:
    """What was found in a video."""

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

    def to_list(self) -> list[dict[str, Any]]:
        """``[{"start": 12.0, "end": 16.0, "text": "..."}]``, times in seconds."""
        return [event.to_dict() for event in self.events]


def run_scenario(
    engine: Any,
    video: VideoSource | VideoMemory,
    name: str,
    *,
    event: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    prefill: PrefillStrategy | str | None = None,
    decode: DecodeStrategy | str | None = None,
    subtitles: Any = None,
    overlap: float = OVERLAP,
    max_new_tokens: int | None = None,
    progress: bool = False,
    tell: Tell | None = None,
) -> Timeline:
    """Look for something in an opened video, read in as many passes as it takes, or in a memory, read before.

    Args:
        name: one of :data:`SCENARIOS`.
        event: what ``ground`` looks for.
        sampling: settings of :class:`Sampling` by name; ``max_frames`` holds for one pass. ``num_frames`` asks for
            one pass over the whole video, however coarse.
        subtitles: of an opened video, as in ``encode``; each pass reads what is said in it.
        overlap: seconds that two passes share.
        tell: gets a sentence before each pass.

    Raises ``ValueError`` for settings that contradict each other, ``VideoError`` for a video that cannot be read.
    """
    scenario = SCENARIOS[name]
    if (name == "ground") != bool(event and event.strip()):
        raise ValueError("ground looks for an event, described in words; no other scenario does")
    timed = bool(engine.config.time_format)
    question = scenario_prompt(name, engine.name, event, timed=timed)
    tokens = max_new_tokens or scenario.max_new_tokens
    if isinstance(video, VideoMemory):
        asked = _ask_memory(engine, video, question, decode, tokens)
    else:
        settings = {k: v for k, v in (sampling or {}).items() if v is not None}
        if "num_frames" not in settings:
            settings.setdefault("max_frames", scenario.max_frames if timed else UNTIMED_FRAMES)
        cues = None if subtitles is None else cues_of(subtitles)
        asked = _ask_passes(engine, video, question, settings, prefill, decode, cues, overlap, tokens, progress, tell)
    replies, found, warnings = [], [], dict[str, None]()
    for stretch, answer in asked:
        events = read_answer(answer.text, stretch, scenario, event, timed=timed)
        seconds = round(sum(answer.usage.seconds.values()), 3)
        replies.append(Reply(*stretch, answer.text, len(events), answer.usage.frames, seconds))
        found.append(events)
        warnings |= dict.fromkeys(answer.warnings)
    return Timeline(
        name,
        str(video.usage.get("source") if isinstance(video, VideoMemory) else video.name),
        engine.name,
        min(reply.start for reply in replies),
        max(reply.end for reply in replies),
        question,
        tuple(merge(found, gap=1.0)),
        tuple(replies),
        tuple(warnings),
        event,
    )


def read_answer(
    text: str, stretch: Pass, scenario: Scenario, event: str | None = None, *, timed: bool = True
) -> list[Event]:
    """The events that an answer about one pass names. ``timed``: whether the model was told times."""
    if not text.strip() or denies(text):
        return []
    events = parse_events(text) if timed else []
    if not events and (scenario.places or not timed):
        events = [Event(*stretch, " ".join(text.split()))]
    named = [Event(e.start, e.end, event.strip() if event else e.text) for e in events]
    return clipped(named, *stretch)


def _ask_memory(
    engine: Any, memory: VideoMemory, question: str, decode: DecodeStrategy | str | None, tokens: int
) -> Iterator[tuple[Pass, Answer]]:
    stretch = Pass(memory.groups[0].start_s, memory.groups[-1].end_s)
    yield stretch, engine.ask(memory, question, decode=decode, max_new_tokens=tokens)


def _ask_passes(
    engine: Any,
    source: VideoSource,
    question: str,
    settings: dict[str, Any],
    prefill: PrefillStrategy | str | None,
    decode: DecodeStrategy | str | None,
    cues: Sequence[Cue] | None,
    overlap: float,
    tokens: int,
    progress: bool,
    tell: Tell | None,
) -> Iterator[tuple[Pass, Answer]]:
    strategy = for_question(choose_prefill(prefill, engine.config), question)
    how = choose_decode(decode, engine.config)
    passes = passes_of(source, settings, overlap, engine.config.frames_per_group)
    for number, stretch in enumerate(passes, 1):
        if tell and len(passes) > 1:
            tell(f"pass {number} of {len(passes)}: {stretch.start:.1f}s to {stretch.end:.1f}s")
        cut = {"start": stretch.start, "end": stretch.end} if len(passes) > 1 else {}
        said = cues and [cue for cue in cues if cue.start_s < stretch.end and cue.end_s > stretch.start]
        memory = engine.encode(
            source, **{**settings, **cut}, prefill=strategy, subtitles=said or None, progress=progress
        )
        answer = engine.ask(memory, question, decode=watching(how, memory, source, {}), max_new_tokens=tokens)
        yield stretch, answer


def passes_of(
    source: VideoSource, settings: Mapping[str, Any], overlap: float, frames_per_group: int = 1
) -> list[Pass]:
    """The passes over an opened video; one where its length is not known, or where ``num_frames`` says how coarse."""
    Sampling(**settings)
    whole = source.info.duration or 0.0
    begin = float(settings.get("start") or 0.0)
    end = min(whole, float(settings.get("end") or whole))
    if "num_frames" in settings or not end > begin:
        return [Pass(begin, max(begin, end))]
    fps = max(settings.get("max_fps") or 0.0, settings.get("fps") or Sampling.DEFAULT_FPS)
    group = frames_per_group / fps
    return plan_passes(begin, end, fps=fps, max_frames=settings["max_frames"], overlap=overlap, group=group)
