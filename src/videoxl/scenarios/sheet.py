"""What a page shows: stretches of a video on lanes, what was said about each, and what is to be downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from videoxl.cues import Track
from videoxl.inference.answers import Answer
from videoxl.inference.written import MOST_QUOTES
from videoxl.memory.layout import clock
from videoxl.scenarios.events import Event
from videoxl.scenarios.run import Reply, Timeline
from videoxl.scenarios.timeline import fine_clock, summary_line, title, when

STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
"""Seconds that may lie between two ticks."""
MOST_TICKS = 8
FOUND, LOOKED, QUOTED, READ = "found", "looked", "quoted", "read"
LEGEND = {
    FOUND: "what the answer names",
    LOOKED: "where the answer's tokens looked; the stronger, the more",
    QUOTED: "what was said or written there",
    READ: "what was read in full detail",
    "subtitles": "subtitles",
    "speech": "speech, written down",
    "screen": "text on screen",
}
LONGEST_LABEL = 300


@dataclass(frozen=True)
class Stretch:
    """From ``start`` to ``end`` seconds. ``weight``, 0 to 1, is how strongly it is drawn."""

    start: float
    end: float
    label: str
    entry: int | None = None
    """The number of the entry it belongs to, if to a single one."""
    weight: float = 1.0


@dataclass(frozen=True)
class Lane:
    """Stretches of one kind: ``found``, ``looked``, ``quoted``, ``read``, or a kind of track."""

    kind: str
    stretches: tuple[Stretch, ...]

    @property
    def legend(self) -> str:
        return LEGEND[self.kind]


@dataclass(frozen=True)
class Entry:
    """Something that was found or answered. ``start`` and ``end``: where its picture comes from, if anywhere."""

    text: str
    heading: str
    start: float | None = None
    end: float | None = None
    question: str = ""
    evidence: tuple[Stretch, ...] = ()
    quotes: tuple[tuple[float, str, str], ...] = ()
    """What was said or written there: the second, the track, the text."""


@dataclass(frozen=True)
class Sheet:
    """All of a page but pictures and the video itself. Times are seconds of the video."""

    title: str
    facts: str
    name: str
    """Of the video, for files to download."""
    begin: float
    end: float
    lanes: tuple[Lane, ...]
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()
    question: str = ""
    replies: tuple[Reply, ...] = ()
    events: tuple[Event, ...] = field(default=())
    """What is to be downloaded."""
    tracks: tuple[Track, ...] = ()
    """What was read with the frames; to be downloaded too."""

    @property
    def length(self) -> float:
        return max(self.end - self.begin, 1e-9)

    def place(self, seconds: float) -> float:
        """Where a time lies on the bar, in percent."""
        return 100 * min(max((seconds - self.begin) / self.length, 0.0), 1.0)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Places on the bar, in percent, and their times."""
        step = next((step for step in STEPS if self.length / step <= MOST_TICKS), STEPS[-1])
        first = int(-(-self.begin // step))
        for number in range(first, int(self.end // step) + 1):
            seconds = number * step
            yield self.place(seconds), clock(seconds) if step >= 1 else fine_clock(seconds)


def sheet_of_timeline(timeline: Timeline) -> Sheet:
    """The events of a timeline, and where the replies that name them looked."""
    found = [
        Stretch(event.start, event.end, f"{when(event)}: {event.text}", number)
        for number, event in enumerate(timeline.events)
    ]
    looked = [
        Stretch(span.start, span.end, _share(span.start, span.end, span.share), None, span.share)
        for reply in timeline.replies
        for span in reply.evidence
        if reply.events
    ]
    return Sheet(
        title=title(timeline),
        facts=f"{summary_line(timeline)}; model {timeline.model}",
        name=timeline.video,
        begin=timeline.begin,
        end=timeline.end,
        lanes=_lanes({FOUND: found, LOOKED: looked}) + _track_lanes(timeline.tracks),
        entries=tuple(_entry_of(event, timeline.tracks) for event in timeline.events),
        warnings=timeline.warnings,
        question=timeline.question,
        replies=timeline.replies,
        events=timeline.events,
        tracks=timeline.tracks,
    )


def sheet_of_answers(
    video: str,
    model: str,
    begin: float,
    end: float,
    answered: Sequence[tuple[str, Answer]],
    tracks: Sequence[Track] = (),
) -> Sheet:
    """Questions about a video that spans ``begin`` to ``end`` seconds, with their answers.

    ``tracks``: what was read with the frames.
    """
    entries = list[Entry]()
    looked, quoted, read = list[Stretch](), list[Stretch](), list[Stretch]()
    for number, (question, answer) in enumerate(answered):
        own = tuple(
            Stretch(span.start, span.end, _share(span.start, span.end, span.share), number, span.share)
            for span in answer.evidence
        )
        best = answer.evidence[0] if answer.evidence else None
        entries.append(
            Entry(
                answer.text or "(nothing)",
                when(Event(best.start, best.end, "")) if best else "",
                best.start if best else None,
                best.end if best else None,
                question,
                own,
                tuple((quote.start, quote.track, quote.text) for quote in answer.quotes),
            )
        )
        looked += own
        quoted += [Stretch(q.start, q.end, f"{q.track}: {q.text}", number) for q in answer.quotes]
        read += [Stretch(s.start, s.end, _read(s.start, s.end), number) for s in answer.read]
    whole = all(len(answer.read) == 1 and answer.usage.decode == "dense" for _, answer in answered)
    spoken = [(entry, question) for entry, (question, _) in zip(entries, answered) if entry.start is not None]
    return Sheet(
        title=answered[0][0] if len(answered) == 1 else f"{len(answered)} questions about {video}",
        facts=f"{clock(end - begin)} of {video}; model {model}",
        name=video,
        begin=begin,
        end=end,
        lanes=_lanes({LOOKED: looked, QUOTED: quoted, READ: [] if whole else read})  # all of it says nothing
        + _track_lanes(tracks),
        entries=tuple(entries),
        warnings=tuple(dict.fromkeys(warning for _, answer in answered for warning in answer.warnings)),
        events=tuple(Event(e.start or 0.0, e.end or 0.0, f"{question} {e.text}") for e, question in spoken),
        tracks=tuple(tracks),
    )


def _entry_of(event: Event, tracks: Sequence[Track]) -> Entry:
    said = [
        (cue.start_s, str(track.kind), cue.text) for track in tracks for cue in track.within(event.start, event.end)
    ]
    return Entry(event.text, when(event), event.start, event.end, quotes=tuple(said[:MOST_QUOTES]))


def _track_lanes(tracks: Sequence[Track]) -> tuple[Lane, ...]:
    """A lane for each track that has cues."""
    return tuple(
        Lane(
            str(track.kind),
            tuple(Stretch(c.start_s, c.end_s, f"{track.kind}: {c.text[:LONGEST_LABEL]}") for c in track.cues),
        )
        for track in tracks
        if track.cues
    )


def _lanes(found: dict[str, list[Stretch]]) -> tuple[Lane, ...]:
    """Those with something on them; what was looked at is drawn the darker the more."""
    lanes = []
    for kind, stretches in found.items():
        most = max((stretch.weight for stretch in stretches), default=1.0) or 1.0
        drawn = tuple(
            Stretch(s.start, s.end, s.label, s.entry, round(0.25 + 0.75 * s.weight / most, 3)) for s in stretches
        )
        lanes += [Lane(kind, drawn)] if drawn else []
    return tuple(lanes)


def _share(start: float, end: float, share: float) -> str:
    return f"{when(Event(start, end, ''))}, {100 * share:.0f} % of the attention to the video"


def _read(start: float, end: float) -> str:
    return f"{when(Event(start, end, ''))}, read in full detail"
