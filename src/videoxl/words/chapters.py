"""Divides a video into chapters: where its shots, its words and its slides change together.

Moments at which a chapter may begin are cuts, fades, the ends of pauses in speech, and new titles of slides. Each gets
points for what speaks for it; the best are taken, as long as no chapter becomes shorter than the least length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from videoxl.cues import Cue, Track, TrackKind
from videoxl.words.chapters_titles import key_phrases, shortened, slide_titles, title_from_slides
from videoxl.words.chapters_topics import Embed, Topics
from videoxl.words.shots import Shots

LEAST_SECONDS = 10.0
MOST_CHAPTERS = 20
"""By default no chapter is shorter than this part of the video, or than :data:`LEAST_SECONDS`."""
TOGETHER_S = 2.0
"""Moments that are closer are one."""
LONG_PAUSE_S = 4.0
"""Seconds without speech that get all points of a pause."""
TITLE, FADE, CUT, PAUSE, TOPIC = 1.0, 0.5, 0.35, 0.4, 1.4
"""Points for a new title of a slide, a fade, a cut as strong as can be, a long pause, and another topic."""
USUAL_CHANGE = 0.55
"""Words that differ less before and after a moment speak against a new topic."""
ENOUGH, ENOUGH_WITHOUT_WORDS = 0.6, 0.04
"""Points that begin a chapter. In a film without words cuts and fades decide alone."""


@dataclass(frozen=True)
class Chapter:
    """A part of a video, with its title. Seconds."""

    start_s: float
    end_s: float
    title: str


@dataclass(frozen=True)
class Chapters:
    """The chapters of a video, one after the other without gaps, and what a user should know about them."""

    chapters: tuple[Chapter, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Moment:
    time_s: float
    points: float


def find_chapters(
    shots: Shots,
    tracks: Sequence[Track] = (),
    *,
    least_seconds: float | None = None,
    embed: Embed | None = None,
    title_of: Callable[[float, float], str] | None = None,
) -> Chapters:
    """Divide a video.

    Args:
        shots: what :func:`~videoxl.words.shots.find_shots` found.
        tracks: subtitles, speech and text on screen, as far as they are known.
        least_seconds: no chapter is shorter; default a twentieth of the video, and at least 10 seconds.
        embed: sentence vectors of texts, which tell topics apart better than words do.
        title_of: a title for the seconds from and to, from a model, say; empty where it has none.

    Raises ``ValueError`` for a length that is not above 0.
    """
    if least_seconds is not None and not least_seconds > 0:
        raise ValueError(f"least_seconds must be above 0, got {least_seconds!r}")
    length = shots.end_s - shots.start_s
    least = least_seconds or max(LEAST_SECONDS, length / MOST_CHAPTERS)
    said = [cue for track in tracks if track.kind is not TrackKind.SCREEN for cue in track.cues]
    written = [cue for track in tracks if track.kind is TrackKind.SCREEN for cue in track.cues]
    titles = slide_titles(written, length)
    topics = Topics([*said, *written], embed)
    moments = [
        replace(moment, points=moment.points + _topic_points(topics, moment.time_s))
        for moment in _moments(shots, said, titles)
    ]
    enough = ENOUGH if said or written else ENOUGH_WITHOUT_WORDS
    starts = _chosen([one for one in moments if one.points >= enough], shots.start_s, shots.end_s, least)
    edges = [shots.start_s, *starts, shots.end_s]
    parts = list(pairwise(edges))
    names = _titles(parts, [*said, *written], titles, title_of)
    chapters = tuple(Chapter(begin, end, name) for (begin, end), name in zip(parts, names))
    return Chapters(chapters, tuple(_notes(shots, said, written, len(chapters), least)))


def _moments(shots: Shots, said: Sequence[Cue], titles: Sequence[Cue]) -> list[_Moment]:
    """Moments at which something begins, with the points for it; those that are close are one."""
    found = [_Moment(cut.time_s, CUT * cut.strength) for cut in shots.cuts]
    found += [_Moment(time, FADE) for time in shots.fades]
    before = ""
    for cue in titles:
        if cue.text != before:
            found.append(_Moment(cue.start_s, TITLE))
        before = cue.text
    ended = None
    for cue in sorted(said, key=lambda cue: cue.start_s):
        if ended is not None and cue.start_s - ended >= TOGETHER_S / 2:
            found.append(_Moment(cue.start_s, PAUSE * min(1.0, (cue.start_s - ended) / LONG_PAUSE_S)))
        ended = max(ended or 0.0, cue.end_s)
    joined: list[_Moment] = []
    for moment in sorted(found, key=lambda one: one.time_s):
        if joined and moment.time_s - joined[-1].time_s <= TOGETHER_S:
            earlier = joined.pop()
            surer = max(earlier, moment, key=lambda one: one.points)
            moment = _Moment(surer.time_s, earlier.points + moment.points)
        joined.append(moment)
    return joined


def _topic_points(topics: Topics, seconds: float) -> float:
    change = topics.change_at(seconds)
    return 0.0 if change is None else TOPIC * (change - USUAL_CHANGE)


def _chosen(moments: Sequence[_Moment], start: float, end: float, least: float) -> list[float]:
    """The best moments that leave every chapter its least length."""
    chosen: list[float] = []
    for moment in sorted(moments, key=lambda one: (-one.points, one.time_s)):
        if all(abs(moment.time_s - edge) >= least for edge in (start, end, *chosen)):
            chosen.append(moment.time_s)
    return sorted(chosen)


def _titles(
    parts: Sequence[tuple[float, float]],
    cues: Sequence[Cue],
    titles: Sequence[Cue],
    title_of: Callable[[float, float], str] | None,
) -> list[str]:
    texts = ["\n".join(cue.text for cue in cues if begin <= cue.start_s < end) for begin, end in parts]
    phrases = key_phrases(texts)
    found = []
    for number, (begin, end) in enumerate(parts):
        named = shortened(title_of(begin, end)) if title_of else ""
        slide = title_from_slides(titles, begin, end)  # type: ignore[arg-type]
        found.append(named or slide or phrases[number] or f"Part {number + 1}")
    return found


def _notes(shots: Shots, said: Sequence[Cue], written: Sequence[Cue], count: int, least: float) -> list[str]:
    notes = []
    if not said and not written:
        notes.append("no words are known: chapters come from cuts and fades, and their titles are numbers")
    if count == 1:
        why = "no cut, fade or change of words" if not shots.cuts and not shots.fades else "no change that is clear"
        notes.append(f"it is one chapter: there is {why} that leaves chapters of at least {least:g} s")
    return notes
