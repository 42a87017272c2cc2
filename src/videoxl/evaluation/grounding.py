"""Temporal grounding: when does an event happen? R1@0.3, 0.5, 0.7 and mIoU on annotations like Charades-STA's."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from videoxl.config import DecodeStrategy, PrefillStrategy, Sampling
from videoxl.errors import EvaluationError
from videoxl.evaluation.annotations import find_video, read_text
from videoxl.evaluation.grounding_rules import RULES, Span
from videoxl.evaluation.grounding_rules import overlap as overlap_of
from videoxl.evaluation.log import Json, SampleLog
from videoxl.evaluation.metrics import share_interval
from videoxl.evaluation.prompts import GROUNDING
from videoxl.evaluation.samples import AnswerSettings, Sample, Tell, answer_all, make_result
from videoxl.inference.engine import VideoXL
from videoxl.json_lines import read_json_lines
from videoxl.scenarios.time_spans import TimeSpan, iou, parse_spans

THRESHOLDS = (0.3, 0.5, 0.7)
FPS = 2.0
"""Frames a second of TimeLens-Bench, whose videos are short."""
Kind = TypeVar("Kind")
_CHARADES = re.compile(r"(?P<video>\S+) (?P<start>[0-9.]+) (?P<end>[0-9.]+)##(?P<query>.*\S)\s*")


@dataclass(frozen=True)
class Event:
    """A described event of a video and when it happens."""

    key: str
    video: str
    query: str
    spans: tuple[TimeSpan, ...]
    """Mostly one. An answer is compared with the span that it fits best."""


def read_events(path: str | os.PathLike[str]) -> list[Event]:
    """Read annotations in one of three forms, told apart by their content.

    * Charades-STA, lines of text: ``3MSZA 24.3 30.4##person turn a light on.``
    * TimeLens-Bench, JSON: ``{"3MSZA": {"duration": 30.96, "spans": [[24.3, 30.4]], "queries": ["person ..."]}}``
    * TimeLens-100K, JSON lines: ``{"video_path": "a/b.mp4", "events": [{"query": "...", "span": [[24.3, 30.4]]}]}``

    Raises :class:`EvaluationError`, which names the line or video that has another form.
    """
    text = read_text(path)
    if not text.strip():
        raise EvaluationError(f"annotations {path} are empty")
    if not text.lstrip().startswith("{"):
        return _read_charades(text, path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # not one JSON value: one a line
        return _read_timelens_lines(path)
    return _read_timelens_lines(path) if "events" in found else _read_timelens(found, path)


def evaluate(
    engine: VideoXL,
    events: Sequence[Event],
    videos: str | os.PathLike[str],
    log: SampleLog,
    settings: AnswerSettings,
    *,
    prompt: str = "default",
    tell: Tell | None = None,
) -> Json:
    """Ask about every event, score the answers, and return the result, ready for JSON.

    ``videos``: the folder of the video files; ``settings``: what :func:`answer_settings` returns.
    """
    prompts = [GROUNDING[prompt].replace("{event}", event.query) for event in events]
    questions = [Sample(e.key, find_video(videos, e.video), text) for e, text in zip(events, prompts)]
    answers = answer_all(engine, questions, log, settings, tell=tell)
    samples = [_sample(event, answers.texts.get(event.key)) for event in events]
    return make_result(engine, log, answers, score(events, answers.texts), samples)


def answer_settings(
    *,
    fps: float = FPS,
    max_frames: int | None = None,
    prefill: PrefillStrategy | str | None = None,
    decode: DecodeStrategy | str | None = None,
    max_new_tokens: int = 64,
    together: bool = True,
) -> AnswerSettings:
    """Read ``fps`` frames a second, at most ``max_frames``."""
    sampling = Sampling(fps=fps, max_frames=max_frames)
    return AnswerSettings(
        sampling=lambda source: sampling,
        sampling_name=str(sampling),
        prefill=prefill,
        decode=decode,
        max_new_tokens=max_new_tokens,
        together=together,
    )


def score(events: Sequence[Event], texts: Mapping[str, str], *, seed: int = 0) -> Json:
    """Return R1 at each threshold (the share of events whose first span overlaps by at least that much), and mIoU.

    An answer that names no span, and a missing answer, overlap by 0. Shares are 0 to 1. ``interval`` is 95 %, by
    resampling whole videos. ``lmms_rules`` has the same measures with answers read as by lmms-eval, for Charades-STA
    and for TimeLens-Bench, each against the first span of an event.
    """
    overlaps = [overlap(event, texts.get(event.key, "")) for event in events]
    videos = [event.video for event in events]
    found: Json = {"events": len(events), "videos": len(set(videos))}
    measures = {f"R1@{t}": [float(value >= t) for value in overlaps] for t in THRESHOLDS} | {"mIoU": overlaps}
    for name, values in measures.items():
        found[name] = math.fsum(values) / len(values) if values else None
    found["interval"] = {name: share_interval(values, seed=seed, clusters=videos) for name, values in measures.items()}
    found["lmms_rules"] = {name: _by_rule(events, texts, rule) for name, rule in RULES.items()}
    found["without_span"] = sum(e.key in texts and not parse_spans(texts[e.key]) for e in events)
    found["unanswered"] = sum(e.key not in texts for e in events)
    return found


def _by_rule(events: Sequence[Event], texts: Mapping[str, str], rule: Callable[[str], Span | None]) -> Json:
    found = [rule(texts.get(event.key, "")) for event in events]
    overlaps = [overlap_of(span, event.spans[0]) if span else 0.0 for event, span in zip(events, found)]
    measures = {f"R1@{t}": [float(value >= t) for value in overlaps] for t in THRESHOLDS} | {"mIoU": overlaps}
    return {name: math.fsum(values) / len(values) if values else None for name, values in measures.items()}


def overlap(event: Event, text: str) -> float:
    """Return the intersection over union of an answer's first span with the span of the event that it fits best."""
    spans = parse_spans(text)
    return max((iou(spans[0], truth) for truth in event.spans), default=0.0) if spans else 0.0


def _sample(event: Event, text: str | None) -> Json:
    return {
        "key": event.key,
        "video": event.video,
        "query": event.query,
        "truth": [list(span) for span in event.spans],
        "text": text,
        "spans": [list(span) for span in parse_spans(text or "")],
        "iou": overlap(event, text or ""),
    }


# -------------------------------------------------------------------------------------------------- annotation forms


def _read_charades(text: str, path: str | os.PathLike[str]) -> list[Event]:
    events = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        match = _CHARADES.fullmatch(line.strip())
        if match is None:
            raise EvaluationError(
                f"annotations {path}, line {number}: expected 'VIDEO START END##sentence', got {line[:80]!r}"
            )
        where = f"{path}, line {number}"
        events.append(_event(number, match["video"], match["query"], [[match["start"], match["end"]]], where))
    return events


def _read_timelens(found: Json, path: str | os.PathLike[str]) -> list[Event]:
    events: list[Event] = []
    for video, entry in found.items():
        where = f"{path}, video {video!r}"
        queries, spans = _field(entry, "queries", list, where), _field(entry, "spans", list, where)
        if len(queries) != len(spans):
            raise EvaluationError(f"annotations {where}: {len(queries)} queries, but {len(spans)} spans")
        events += [_event(len(events) + n, video, q, [s], where) for n, (q, s) in enumerate(zip(queries, spans), 1)]
    return events


def _read_timelens_lines(path: str | os.PathLike[str]) -> list[Event]:
    events: list[Event] = []
    for line, entry in read_json_lines(path, _annotations_error):
        where = line.place
        video = _field(entry, "video_path", str, where)
        for event in _field(entry, "events", list, where):
            spans = _field(event, "span", list, where)
            events.append(_event(len(events) + 1, video, _field(event, "query", str, where), spans, where))
    return events


def _annotations_error(reason: str) -> EvaluationError:
    return EvaluationError(f"annotations {reason}")


def _event(number: int, video: str, query: object, spans: list[list[object]], where: str) -> Event:
    try:
        found = tuple(TimeSpan(float(str(start)), float(str(end))) for start, end in spans)
    except (TypeError, ValueError):
        raise EvaluationError(f"annotations {where}: spans must be [start, end] in seconds, got {spans!r}") from None
    if not found or not all(math.isfinite(time) for span in found for time in span):
        raise EvaluationError(f"annotations {where}: an event needs a span of finite seconds, got {spans!r}")
    sentence = re.sub(r"\s+", " ", str(query)).strip().strip(".").strip()
    if not sentence:
        raise EvaluationError(f"annotations {where}: an event has no sentence")
    return Event(f"{number:05d} {Path(video).name}", video, sentence, found)


def _field(entry: object, name: str, kind: type[Kind], where: str) -> Kind:
    """Return a field of a JSON object. Raises :class:`EvaluationError` for a missing one, or one of another type."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise EvaluationError(f"annotations {where}: expected a {kind.__name__} under {name!r}, got {value!r:.80}")
    return value
