"""All cells of a grid: each haystack is made and read once, all its questions are asked, every answer is kept."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from videoxl.config import DecodeStrategy, PrefillStrategy, Sampling
from videoxl.errors import DoesNotFitError, VideoError
from videoxl.evaluation.annotations import digest
from videoxl.evaluation.log import SampleLog, how_it_was_run
from videoxl.evaluation.niah.haystacks import Haystack, make_haystack
from videoxl.evaluation.niah.judging import is_right
from videoxl.evaluation.niah.needles import Asked, PictureNeedle, read_needles
from videoxl.evaluation.niah.settings import GIVEN, NiahSettings, Place, check_ways, places
from videoxl.evaluation.niah.summary import summary
from videoxl.evaluation.niah.ways import decoder, is_inner
from videoxl.evaluation.no_video import answer_blind
from videoxl.evaluation.samples import record_of
from videoxl.inference.answers import Answer
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.decode.siglip import siglip_for
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.video import VideoSource, open_video
from videoxl.world.questions import TIMED

SAMPLES = 2
"""Haystacks per cell, where nothing else is asked for."""
DEFAULT_KINDS = ("color", "shape", "number", "present", "when", "at")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Compared:
    """Ways of reading that are compared; see :mod:`ways`."""

    ways: tuple[str, ...] = (GIVEN,)
    siglip: Any = None
    """A :class:`SiglipRelevance`, for the way of that name."""
    missing: dict[str, str] | None = None
    """Ways that are not available here, and why."""


def run_niah(
    engine: Any,
    settings: NiahSettings,
    *,
    log: str | Path | None = None,
    resume: bool = False,
    ways: Sequence[str] = (),
    siglip: Any = None,
    control: bool = True,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Run a grid and return its result, ready for JSON: ``accuracy``, ``cells``, how it was run.

    Args:
        log: a file in which every answer is kept as soon as it is there; with ``resume`` those that are in it are not
            asked again. The result is the same as without interruption.
        ways: of :data:`WAYS` those to compare, on the same haystacks, of choosing what is read densely; ``decode`` of
            the settings must be bi-level. The result then has ``ways`` in the place of ``accuracy`` and ``cells``.
        siglip: a SigLIP model for the way of that name: a Hub id, a folder, or a :class:`SiglipRelevance`. Without one
            the result says that it is not available.
        control: also ask every question without any video.
        tell: called with a line at every haystack.

    A haystack that cannot be read, or does not fit into memory, is listed under ``failed``; its questions are not
    answered and do not count.

    Raises:
        EvaluationError: the log is of other settings; needles that cannot be used.
        VideoError: the film cannot be opened.
        ValueError: settings that contradict each other or that the model does not have.
    """
    decode = choose_decode(settings.decode, engine.config)
    prefill = choose_prefill(settings.prefill, engine.config)
    compared = _compared(decode, ways, siglip, engine)
    needles = read_needles(settings.pictures) if settings.pictures else []
    settings = _filled_in(settings, engine, needles)
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(open_video(settings.haystack)) if settings.haystack else None
        identity = _identity(settings, engine, compared, prefill, decode, video)
        kept = stack.enter_context(SampleLog(log, identity, resume=resume))
        run = _Run(engine, settings, kept, compared, prefill, decode, tell or (lambda line: None))
        failed = {}
        for place in places(settings, settings.samples or SAMPLES):
            haystack = make_haystack(
                settings,
                place,
                size=engine.config.image_size,
                kinds=settings.kinds or (),
                needles=needles,
                video=video,
            )
            if problem := run.all_of(haystack):
                failed[place.name] = problem
            elif control:
                run.blind(haystack)
        facts = how_it_was_run(engine.model_id.name, engine, **_told(settings, compared, prefill, decode))
    result = summary(run.records, run.blind_records, failed, ways=compared.ways, missing=compared.missing or {})
    return {"benchmark": "niah", **result, "run": facts}


@dataclass
class _Run:
    engine: Any
    settings: NiahSettings
    log: SampleLog
    compared: Compared
    prefill: PrefillStrategy
    decode: DecodeStrategy
    tell: Tell

    def __post_init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.blind_records: list[dict[str, Any]] = []

    def all_of(self, haystack: Haystack) -> str | None:
        """Answer what is not in the log. Returns why it could not be read."""
        todo = [number for number in range(len(haystack.asked)) if self._missing(haystack.place, number)]
        if todo:
            self.tell(f"{haystack.source.name}: {haystack.place.frames:,} frames, {len(todo)} questions")
        try:
            for prefill, numbers in self._by_reading(haystack, todo):
                self._ask(haystack, prefill, numbers)
        except (VideoError, DoesNotFitError) as error:
            self.tell(f"failed: {error}")
            return f"{error.code}: {error}"
        for number in range(len(haystack.asked)):
            for way in self.compared.ways:
                self.records.append(self.log.records[_key(haystack.place, number, way)])
        return None

    def _missing(self, place: Place, number: int) -> bool:
        return any(self.log.done(_key(place, number, way)) is None for way in self.compared.ways)

    def _by_reading(self, haystack: Haystack, todo: Sequence[int]) -> Iterator[tuple[PrefillStrategy, list[int]]]:
        """Questions that one reading serves: all, unless the strategy reads with the question in mind."""
        with_strategy = [(for_question(self.prefill, self._prompt(haystack.asked[n])), n) for n in todo]
        for prefill, group in groupby(with_strategy, key=lambda pair: pair[0]):
            yield prefill, [number for _, number in group]

    def _ask(self, haystack: Haystack, prefill: PrefillStrategy, numbers: Sequence[int]) -> None:
        place, per_group = haystack.place, self.engine.config.frames_per_group
        sampling = Sampling(indices=tuple(range(place.frames)))
        memory = self.engine.encode(haystack.source, sampling=sampling, prefill=prefill)
        for way in self.compared.ways:
            strategy = decoder(way, self.decode, memory, haystack.source, siglip=self.compared.siglip, frames=per_group)
            for number in numbers:
                if self.log.done(_key(place, number, way)) is not None:
                    continue
                asked = haystack.asked[number]
                answer = self.engine.ask(
                    memory,
                    self._prompt(asked),
                    decode=strategy(asked, (self.settings.seed, *place.seed, number)),
                    max_new_tokens=self.settings.max_new_tokens,
                )
                inner = is_inner(asked, self.decode, per_group, len(memory.groups))
                shown = (memory.timestamps[asked.frames[0]], memory.timestamps[min(asked.frames[1], place.frames) - 1])
                record = _record(asked, answer, place, shown, inner=inner, judge=self.settings.judge)
                self.log.add(_key(place, number, way), {"way": way, **record})

    def blind(self, haystack: Haystack) -> None:
        """Ask without the video; the same words are asked once."""
        for asked in haystack.asked:
            prompt = self._prompt(asked)
            key = f"no video/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"
            told = self.log.done(key) or self.log.add(
                key, {"text": answer_blind(self.engine, prompt, max_new_tokens=self.settings.max_new_tokens)}
            )
            right = is_right(asked, told["text"], self.settings.judge)
            self.blind_records.append({"kind": asked.kind, "right": right, "haystack": haystack.place.name})

    def _prompt(self, asked: Asked) -> str:
        return self.settings.prompt.replace("{question}", asked.text)


def _key(place: Place, number: int, way: str) -> str:
    return f"{place.name}/{number}/{way}"


def _record(
    asked: Asked, answer: Answer, place: Place, shown: tuple[float, float], *, inner: bool | None, judge: str
) -> dict[str, Any]:
    return {
        **record_of(answer),
        "haystack": place.name,
        "frames": place.frames,
        "depth": asked.depth,
        "kind": asked.kind,
        "question": asked.text,
        "expected": asked.answer,
        "right": is_right(asked, answer.text, judge),
        "chance": asked.chance,
        "shown": list(shown),
        "inner": inner,
        "seen": all(any(span.start <= moment <= span.end for span in answer.spans) for moment in shown),
    }


def _filled_in(settings: NiahSettings, engine: Any, needles: list[PictureNeedle]) -> NiahSettings:
    """With the defaults that depend on the model and the needles."""
    if needles:
        if settings.needles > len(needles):
            raise ValueError(f"needles={settings.needles}, but {settings.pictures} holds {len(needles)}")
        return replace(settings, samples=settings.samples or len(needles))
    told_time = bool(engine.config.time_format)
    kinds = settings.kinds or tuple(k for k in DEFAULT_KINDS if told_time or k not in TIMED)
    return replace(settings, samples=settings.samples or SAMPLES, kinds=kinds)


def _compared(decode: DecodeStrategy, ways: Sequence[str], siglip: Any, engine: Any) -> Compared:
    if not ways:
        return Compared()
    check_ways(ways, decode)
    if "siglip" not in ways:
        return Compared(tuple(ways))
    try:
        return Compared(tuple(ways), siglip=siglip_for(engine, True if siglip is None else siglip))
    except ValueError as error:  # the model has none of its own
        there = tuple(way for way in ways if way != "siglip")
        if not there:
            raise
        return Compared(there, missing={"siglip": str(error)})


def _told(
    settings: NiahSettings, compared: Compared, prefill: PrefillStrategy, decode: DecodeStrategy
) -> dict[str, Any]:
    """The settings for the result; of files only their names."""
    files = {
        name: Path(path).name if path else None
        for name, path in (("haystack", settings.haystack), ("pictures", settings.pictures))
    }
    return {**asdict(settings), **files, "prefill": prefill, "decode": decode, "ways": compared.ways}


def _identity(
    settings: NiahSettings,
    engine: Any,
    compared: Compared,
    prefill: PrefillStrategy,
    decode: DecodeStrategy,
    video: VideoSource | None,
) -> dict[str, Any]:
    """What answers depend on; files by their content, so that a run may go on elsewhere."""
    return {
        **asdict(settings),
        "prefill": str(prefill),
        "decode": str(decode),
        "haystack": video.digest if video else None,
        "pictures": digest(settings.pictures) if settings.pictures else None,
        "model": engine.fingerprint,
        "dtype": engine.dtype,
        "ways": list(compared.ways),
    }
