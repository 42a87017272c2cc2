"""Watches one stream: reads it stretch by stretch into segments, tells what happens, and answers questions."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from videoxl.catalogue.catalogue import Catalogue
from videoxl.catalogue.entries import Embedder, IndexedTrack, Space
from videoxl.catalogue.frames import THUMBNAIL_S, FrameModel, jpeg, vectors_of
from videoxl.catalogue.making import file_facts
from videoxl.config import BiLevelDecode, Generation
from videoxl.errors import CatalogueError, LiveError, MemoryFileError
from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.line_file import LineFile
from videoxl.live.alerts import AlertState
from videoxl.live.asking import About, LiveAnswer, Part, combine
from videoxl.live.choosing import Chosen, choose
from videoxl.live.events import AlertEvent, AnswerEvent, Event, GapEvent, NoteEvent, SegmentEvent, StateEvent
from videoxl.live.folder import EVENTS, INDEX, Folder, SegmentFacts
from videoxl.live.retaining import Shrinker
from videoxl.live.settings import WatchSettings
from videoxl.memory.file.atomic import FULL
from videoxl.memory.video_memory import VideoMemory
from videoxl.video.live.source import FrameSource, Gap, LiveFrame

T = TypeVar("T")
YES, NO = ("yes", "Yes"), ("no", "No")
EVENTS_BYTES = 4 * 2**20
"""A log of events is put aside when it has grown to this; the one put aside before is removed."""
MOST_EVENTS = 10_000
"""Events that wait to be told, at most."""
MAX_FRAMES = 1 << 20
UNWATCHED_S = 2.0
"""A pause between two runs is told from this length on."""


@dataclass
class Current:
    """The segment in work."""

    start: float
    memory: VideoMemory | None = None
    frames: int = 0
    end: float = 0.0
    gaps: list[tuple[float, float]] = field(default_factory=list)


class Watcher:
    """A stream that is watched. :meth:`step` does the work, a little at a time; all calls come from one thread."""

    def __init__(
        self,
        engine: VideoXL,
        source: FrameSource,
        folder: Folder,
        settings: WatchSettings | None = None,
        *,
        siglip: Any = False,
    ) -> None:
        """Go on in a folder with frames of a source.

        ``siglip``: as in ``encode``; with it segments of the past are searched by what their frames show.

        Raises :class:`LiveError`, and ``ValueError`` for a strategy whose memories cannot grow.
        """
        self.engine, self.source, self.folder = engine, source, folder
        self.settings = settings or WatchSettings()
        strategy = choose_prefill(self.settings.prefill, engine.config)
        if reason := engine.config.traits.support(strategy).refuse_extend(strategy):
            raise ValueError(f"a stream cannot be read so: {reason}")
        self._siglip = siglip
        self._catalogue = Catalogue(folder.path / INDEX, write=True)
        self._shrinker = Shrinker(engine, folder, self._catalogue)
        self._alerts = [AlertState(alert) for alert in self.settings.alerts]
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._log = self._opened_log()
        self._pending: list[LiveFrame] = []
        self._waited = time.monotonic()
        self._asked_at = -float("inf")
        self.current: Current | None = None
        self._previous: tuple[SegmentFacts, VideoMemory] | None = None
        self.at = max((one.last for one in folder.segments), default=0.0)
        """How far the stream was read, in seconds of its axis."""
        self.frames = 0
        """Frames read since the start."""
        self._closed = False
        self._resume()
        self._goes_on_from = self.at if folder.segments or self.current is not None else None

    # ------------------------------------------------------------------------------------------------------- work

    def step(self, seconds: float = 1.0) -> bool:
        """Take in what has come, and read a stretch if it is due. Returns whether there is more to come.

        ``seconds``: how long it waits for frames, at most.
        """
        self._take(self.settings.stretch - len(self._pending), seconds)
        self._tell_source()
        ended = self.source.ended
        if not self._pending:
            self._waited = time.monotonic()
        enough = len(self._pending) >= self.settings.stretch
        if self._pending and (enough or ended or time.monotonic() - self._waited > self.settings.patience_s):
            frames, self._pending = self._pending, []
            self._waited = time.monotonic()
            self._read(frames)
        return not (ended and not self._pending)

    def _take(self, most: int, seconds: float) -> None:
        """Take frames in. Those of a file that were read in an earlier run are passed over."""
        taken = [f for f in self.source.take(most, seconds) if self._goes_on_from is None or f.seconds > self.at]
        if taken and self._goes_on_from is not None:
            begin, self._goes_on_from = self._goes_on_from, None
            if taken[0].seconds - begin > UNWATCHED_S:
                self._tell_gap(Gap(begin, taken[0].seconds, "unwatched"))
        self._pending += taken

    def close(self) -> None:
        """Read what waits, save the segment in work, and let go of everything. May be called more than once."""
        if self._closed:
            return
        self._closed = True
        self.source.close()
        try:
            self._take(MAX_FRAMES, 0.0)
            if self._pending:
                self._read(self._pending)
            self._close_segment()
            self._tell_source()
        finally:
            self._log.close()
            self._catalogue.close()
            self.folder.close()

    def events(self) -> list[Event]:
        """What happened since the last call."""
        found = [*self._events]
        self._events.clear()
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that are held."""
        held = [self.current.memory] if self.current is not None else []
        held += [self._previous[1]] if self._previous is not None else []
        return sum(memory.nbytes for memory in held if memory is not None)

    # ---------------------------------------------------------------------------------------------------- reading

    def _read(self, frames: Sequence[LiveFrame]) -> None:
        """Read frames into the segment they belong to. One that is full is closed first."""
        while frames:
            if self.current is not None and frames[0].seconds - self.current.start >= self.settings.segment_s:
                self._close_segment()
            if self.current is None:
                self.current = Current(frames[0].seconds)
            until = self.current.start + self.settings.segment_s
            part = [frame for frame in frames if frame.seconds < until]
            self._read_part(self.current, part)
            frames = frames[len(part) :]

    def _read_part(self, current: Current, frames: Sequence[LiveFrame]) -> None:
        self._with_room(lambda: self.folder.journal.append([*frames]))
        pictures = [frame.pixels_HWC for frame in frames]
        times = [round(frame.seconds - current.start, 3) for frame in frames]
        if current.memory is None:
            current.memory = self._encode(pictures, timestamps=times, siglip=self._siglip)
        else:
            current.memory.extend(pictures, timestamps=times)
        current.frames += len(frames)
        self.frames += len(frames)
        self.at = current.end = frames[-1].seconds
        self._watch_for(current, pictures, times)
        self._ask_again()

    def _encode(self, video: object, **how: Any) -> VideoMemory:
        return self.engine.encode(video, prefill=self.settings.prefill, kv_dtype=self.settings.kv_dtype, **how)

    def _resume(self) -> None:
        """Read once more what a process that was killed had read of its last segment."""
        journal = self.folder.journal
        first = last = None
        count = 0
        for kept in journal.frames():
            first, last, count = kept.seconds if first is None else first, kept.seconds, count + 1
        if first is None or last is None:
            journal.clear()
            return
        if any(one.start == first for one in self.folder.segments):
            journal.clear()  # it was saved before the process died
            return
        begin = first
        pairs = ((kept.frame().pixels_HWC, round(kept.seconds - begin, 3)) for kept in journal.frames())
        memory = self._encode(pairs, fps=1000.0, max_frames=MAX_FRAMES, siglip=self._siglip)
        self.current = Current(first, memory, count, last)
        self.at = last
        self._tell(
            NoteEvent(
                seconds=last,
                time=self._time(last),
                message=f"{count} frames of the last run, which had not ended well, were read again from its journal",
            )
        )

    # --------------------------------------------------------------------------------------------------- segments

    def _close_segment(self) -> None:
        current, self.current = self.current, None
        if current is None or current.memory is None:
            return
        end = max(current.end, current.start + current.memory.groups[-1].end_s)
        facts = SegmentFacts(current.start, end, current.frames, current.end, gaps=tuple(current.gaps))
        path = self.folder.memory_path(facts)
        memory = current.memory
        dtype: Literal["auto", "int8"] = "auto" if memory.usage.kv_dtype else "int8"
        self._with_room(lambda: memory.save(path, dtype=dtype))
        facts = replace(facts, video=self._with_room(lambda: self._index(facts, memory)))
        self._with_room(lambda: self.folder.keep(facts))
        reserve = self.folder.journal.nbytes  # the next one's may become as large
        self.folder.journal.clear()
        self._previous = (facts, memory)
        size = self.folder.bytes_of(facts)
        self._tell(
            SegmentEvent(seconds=end, time=self._time(end), start=facts.start, end=end, frames=facts.frames, bytes=size)
        )
        self._shrinker.apply(self.settings.retention, end, reserve)
        if facts.start not in {one.start for one in self.folder.segments}:
            self._note(end, "the segment was removed at once: retention.bytes is smaller than one segment")

    def _index(self, facts: SegmentFacts, memory: VideoMemory) -> int:
        """Keep small pictures of a segment, and the vectors of its frames, where they can be searched."""
        entry = file_facts(str(self.folder.memory_path(facts)))
        pictures, due = [], -float("inf")
        for kept in self.folder.journal.frames():
            if kept.seconds >= due:
                due = kept.seconds + THUMBNAIL_S
                pictures.append((kept.seconds - facts.start, jpeg(kept.frame().pixels_HWC)))
        tracks = []
        if (seen := memory.embeddings) is not None:
            space = Space("frames", seen.model, seen.fingerprint)
            vectors = vectors_of(space, memory.timestamps, [seen.features_FD.numpy()], facts.end - facts.start)
            tracks.append(IndexedTrack("frames", "of the memory", vectors=vectors))
        made = replace(entry, duration=facts.end - facts.start, tracks=tuple(tracks), thumbnails=tuple(pictures))
        return self._catalogue.add(made)

    def _with_room(self, write: Callable[[], T]) -> T:
        """Write something. Where the disk is full, the oldest segments make room for it."""
        while True:
            try:
                return write()
            except (LiveError, MemoryFileError, CatalogueError) as error:
                if error.code != "disk_full" or not self.folder.segments:
                    raise
                self._note(self.at, "the disk is full: what is oldest was made smaller")
                self._shrinker.shrink_oldest()

    # ----------------------------------------------------------------------------------------------------- events

    def _tell_source(self) -> None:
        for change in self.source.changes():
            self._tell(
                StateEvent(
                    seconds=change.seconds,
                    time=self._time(change.seconds),
                    state=change.state,
                    message=change.message,
                )
            )
        for gap in self.source.gaps():
            self._tell_gap(gap)

    def _tell_gap(self, gap: Gap) -> None:
        if self.current is not None:
            self.current.gaps.append((gap.start, gap.end))
        time_ = self._time(gap.end)
        self._tell(GapEvent(seconds=gap.end, time=time_, start=gap.start, end=gap.end, reason=gap.reason))

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        if self._log.path.stat().st_size > EVENTS_BYTES:
            self._log.close()
            self._log.path.replace(self._log.path.with_name(f"earlier-{EVENTS}"))
            self._log = self._opened_log()
        self._with_room(lambda: self._log.append(event.to_dict()))

    def _opened_log(self) -> LineFile:
        log = LineFile(self.folder.path / EVENTS, _log_error)
        log.mend()
        return log

    def _note(self, seconds: float, message: str) -> None:
        self._tell(NoteEvent(seconds=seconds, time=self._time(seconds), message=message))

    def _time(self, seconds: float) -> float:
        """The time of the wall clock, since 1970."""
        return self.folder.about.epoch + seconds

    # --------------------------------------------------------------------------------------------------- questions

    def _watch_for(self, current: Current, pictures: Sequence[Any], times: Sequence[float]) -> None:
        """Ask the new stretch, alone, each alert's question."""
        if not self._alerts:
            return
        stretch = self.engine.encode([*pictures], timestamps=[*times], prefill=self.settings.prefill)
        start = current.start + times[0]
        for state in self._alerts:
            answer = self.engine.ask(stretch, state.alert.question, choices=(*YES, *NO), evidence=False)
            likely = sum(choice.probability for choice in answer.choices if choice.text in YES)
            if (changed := state.take(likely, start)) is not None:
                what, since = changed
                self._tell(
                    AlertEvent(
                        seconds=self.at,
                        time=self._time(self.at),
                        question=state.alert.question,
                        state=what,
                        since=since,
                        probability=likely,
                    )
                )

    def _ask_again(self) -> None:
        if not self.settings.questions or self.at - self._asked_at < self.settings.every_s:
            return
        self._asked_at = self.at
        for question in self.settings.questions:
            answer = self.ask(question)
            self._tell(
                AnswerEvent(
                    seconds=self.at,
                    time=self._time(self.at),
                    question=question,
                    answer=answer.text,
                    confidence=answer.confidence,
                )
            )

    def ask(self, question: str, *, about: About = "now", generation: Generation | None = None) -> LiveAnswer:
        """Answer a question about the segment in work (``now``), all that is kept (``all``), or a stretch in seconds.

        Each segment that is read answers by itself. What says that something is there counts before what says that
        nothing is, and then what is surer. Raises :class:`LiveError` where there is nothing to ask.
        """
        earlier, wants_current = self._meant(about)
        chosen = self._chosen(earlier, question) if earlier else Chosen(())
        parts = [self._part(one, question, generation) for one in chosen.read]
        now = self.current
        if wants_current and now is not None and now.memory is not None:
            answer = self.engine.ask(now.memory, question, generation=generation)
            parts.append(Part(now.start, now.end, "current", answer))
        if not parts:
            raise LiveError("nothing of the stream has been read that the question is about: ask later, or about 'all'")
        return combine(
            parts,
            searched=[(one.start, one.end) for one in chosen.searched],
            unread=[(one.start, one.end) for one in chosen.unread],
            notes=chosen.notes,
        )

    def _meant(self, about: About) -> tuple[list[SegmentFacts], bool]:
        """The segments of the past that a question is about, and whether it is about the one in work."""
        kept, now = self.folder.segments, self.current
        if about == "now":
            has_current = now is not None and now.memory is not None
            return ([] if has_current else kept[-1:]), True
        if about == "all":
            return [*kept], True
        if isinstance(about, str) or not about[0] < about[1]:
            raise ValueError(f"about must be 'now', 'all', or two seconds of the stream that ascend, got {about!r}")
        start, end = about
        inside = [one for one in kept if one.end > start and one.start < end]
        return inside, now is not None and now.start < end and now.end > start

    def _chosen(self, segments: Sequence[SegmentFacts], question: str) -> Chosen:
        self._catalogue.models["frames"] = self._frames_model()
        return choose(self._catalogue, segments, question, self.settings.earlier)

    def _frames_model(self) -> Embedder | None:
        siglip = self.engine.siglip
        return FrameModel(siglip) if self._siglip and siglip is not None else None

    def _part(self, segment: SegmentFacts, question: str, generation: Generation | None) -> Part:
        held = self._previous
        if held is not None and held[0].start == segment.start:
            return Part(segment.start, segment.end, "dense", self.engine.ask(held[1], question, generation=generation))
        memory = VideoMemory.load(self.folder.memory_path(segment), self.engine)
        pooled = segment.level == "pooled"
        decode = BiLevelDecode(relevance=(0,)) if pooled else None
        answer = self.engine.ask(memory, question, generation=generation, decode=decode)
        return Part(segment.start, segment.end, "pooled" if pooled else "dense", answer)


def _log_error(text: str) -> LiveError:
    full = any(os.strerror(number) in text for number in FULL)
    return LiveError(text, code="disk_full" if full else "live")
