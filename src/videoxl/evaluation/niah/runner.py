"""Run all cells of a grid: make and read each haystack once, ask all its questions, keep every answer."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path

from videoxl.config import DecodeStrategy, PrefillStrategy, Sampling
from videoxl.errors import DoesNotFitError, VideoError
from videoxl.evaluation.annotations import digest
from videoxl.evaluation.log import Json, SampleLog, how_it_was_run
from videoxl.evaluation.niah.haystacks import Haystack, make_haystack
from videoxl.evaluation.niah.needles import PictureNeedle, Question, read_needles
from videoxl.evaluation.niah.scoring import is_right
from videoxl.evaluation.niah.selectors import decode_for, is_inner_needle
from videoxl.evaluation.niah.settings import GIVEN, HaystackPlan, NiahSettings, check_selectors, haystack_plans
from videoxl.evaluation.niah.summary import summary
from videoxl.evaluation.no_video import answer_without_video
from videoxl.evaluation.samples import batches, record_of
from videoxl.inference.answers import Answer
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.decode.siglip import SiglipRelevance, siglip_for
from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.memory.video_memory import VideoMemory
from videoxl.video import VideoSource, open_video
from videoxl.world.questions import TIMED

DEFAULT_SAMPLES = 2
"""Haystacks per cell."""
DEFAULT_KINDS = ("color", "shape", "number", "present", "when", "at")


@dataclass(frozen=True)
class Comparison:
    """The selectors that a run compares; see :mod:`selectors`."""

    selectors: tuple[str, ...] = (GIVEN,)
    siglip: SiglipRelevance | None = None
    """For the selector of that name."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Selectors that cannot run here, and why."""


def run_niah(
    engine: VideoXL,
    settings: NiahSettings,
    *,
    log: str | Path | None = None,
    resume: bool = False,
    selectors: Sequence[str] = (),
    siglip: str | SiglipRelevance | None = None,
    control: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Json:
    """Run a grid and return its result, ready for JSON: ``accuracy``, ``cells``, how it was run.

    Args:
        log: a file that keeps every answer at once. With ``resume``, answers in it are not asked again; the result is
            the same as without interruption.
        selectors: of :data:`SELECTORS`, to be compared on the same haystacks. ``decode`` of the settings must then be
            bi-level, and the result has ``ways``, by selector, in the place of ``accuracy`` and ``cells``.
        siglip: a SigLIP model for the selector of that name: a Hub id, a folder, or a :class:`SiglipRelevance`. Without
            one the result says that the selector is not available.
        control: also ask every question without any video.
        tell: called with a line at every haystack.

    A haystack that cannot be read or does not fit into memory is listed under ``failed``. Its questions do not count.

    Raises:
        EvaluationError: the log has other settings, or the needles cannot be used.
        VideoError: the film cannot be opened.
        ValueError: settings contradict each other, or the model does not support them.
    """
    decode = choose_decode(settings.decode, engine.config)
    prefill = choose_prefill(settings.prefill, engine.config)
    comparison = _comparison(decode, selectors, siglip, engine)
    needles = read_needles(settings.pictures) if settings.pictures else []
    settings = _with_defaults(settings, engine, needles)
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(open_video(settings.haystack)) if settings.haystack else None
        identity = _identity(settings, engine, comparison, prefill, decode, video)
        answers = stack.enter_context(SampleLog(log, identity, resume=resume))
        run = _Run(engine, settings, answers, comparison, prefill, decode, tell or (lambda line: None))
        failed = {}
        for plan in haystack_plans(settings, settings.samples or DEFAULT_SAMPLES):
            haystack = make_haystack(
                settings,
                plan,
                size=engine.config.image_size,
                kinds=settings.kinds or (),
                needles=needles,
                video=video,
            )
            if problem := run.ask_all(haystack):
                failed[plan.name] = problem
            elif control:
                run.ask_without_video(haystack)
        facts = how_it_was_run(engine.model_id.name, engine, **_described(settings, comparison, prefill, decode))
    numbers = summary(
        run.records,
        run.no_video_records,
        failed,
        selectors=comparison.selectors,
        unavailable=comparison.unavailable,
    )
    return {"benchmark": "niah", **numbers, "run": facts}


@dataclass
class _Run:
    engine: VideoXL
    settings: NiahSettings
    log: SampleLog
    comparison: Comparison
    prefill: PrefillStrategy
    decode: DecodeStrategy
    tell: Callable[[str], None]
    records: list[Json] = field(default_factory=list)
    no_video_records: list[Json] = field(default_factory=list)

    def ask_all(self, haystack: Haystack) -> str | None:
        """Answer what is not in the log. Return why the haystack could not be read, or None."""
        todo = [number for number in range(len(haystack.questions)) if self._is_open(haystack.plan, number)]
        if todo:
            self.tell(f"{haystack.source.name}: {haystack.plan.frames:,} frames, {len(todo)} questions")
        try:
            for prefill, numbers in self._by_prefill(haystack, todo):
                self._ask(haystack, prefill, numbers)
        except (VideoError, DoesNotFitError) as error:
            self.tell(f"failed: {error}")
            return f"{error.code}: {error}"
        for number in range(len(haystack.questions)):
            for selector in self.comparison.selectors:
                self.records.append(self.log.records[_key(haystack.plan, number, selector)])
        return None

    def _is_open(self, plan: HaystackPlan, number: int) -> bool:
        return any(self.log.done(_key(plan, number, selector)) is None for selector in self.comparison.selectors)

    def _by_prefill(self, haystack: Haystack, todo: Sequence[int]) -> Iterator[tuple[PrefillStrategy, list[int]]]:
        """Group questions that one memory serves: all, unless the strategy reads with the question in mind."""
        pairs = [(for_question(self.prefill, self._prompt(haystack.questions[n])), n) for n in todo]
        for prefill, group in groupby(pairs, key=lambda pair: pair[0]):
            yield prefill, [number for _, number in group]

    def _ask(self, haystack: Haystack, prefill: PrefillStrategy, numbers: Sequence[int]) -> None:
        plan = haystack.plan
        sampling = Sampling(indices=tuple(range(plan.frames)))
        memory = self.engine.encode(haystack.source, sampling=sampling, prefill=prefill)
        for selector in self.comparison.selectors:
            strategy = decode_for(
                selector,
                self.decode,
                memory,
                haystack.source,
                siglip=self.comparison.siglip,
                frames_per_group=self.engine.config.frames_per_group,
            )
            todo = [number for number in numbers if self.log.done(_key(plan, number, selector)) is None]
            decodes = [strategy(haystack.questions[n], (self.settings.seed, *plan.seed, n)) for n in todo]
            for decode, group in groupby(zip(decodes, todo), key=lambda pair: pair[0]):
                for batch in batches([number for _, number in group], self.settings.together):
                    self._ask_batch(memory, haystack, batch, selector, decode)

    def _ask_batch(
        self, memory: VideoMemory, haystack: Haystack, numbers: Sequence[int], selector: str, decode: DecodeStrategy
    ) -> None:
        """Ask questions by their numbers, all in one call, and keep the answers."""
        questions = [haystack.questions[number] for number in numbers]
        prompts = [self._prompt(question) for question in questions]
        answers = self.engine.ask(memory, prompts, decode=decode, max_new_tokens=self.settings.max_new_tokens)
        for number, question, answer in zip(numbers, questions, answers):
            record = self._record(question, answer, haystack.plan, memory)
            self.log.add(_key(haystack.plan, number, selector), {"way": selector, **record})

    def _record(self, question: Question, answer: Answer, plan: HaystackPlan, memory: VideoMemory) -> Json:
        first, stop = question.frames
        shown = (memory.timestamps[first], memory.timestamps[min(stop, plan.frames) - 1])
        return {
            **record_of(answer),
            "haystack": plan.name,
            "frames": plan.frames,
            "depth": question.depth,
            "kind": question.kind,
            "question": question.text,
            "expected": question.answer,
            "right": is_right(question, answer.text, self.settings.judge),
            "chance": question.chance,
            "shown": list(shown),
            "inner": is_inner_needle(question, self.decode, self.engine.config.frames_per_group, len(memory.groups)),
            "seen": all(any(span.start <= moment <= span.end for span in answer.read) for moment in shown),
        }

    def ask_without_video(self, haystack: Haystack) -> None:
        """Ask all questions without the video; the same words are asked once."""
        for question in haystack.questions:
            prompt = self._prompt(question)
            key = f"no video/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"
            record = self.log.done(key)
            if record is None:
                text = answer_without_video(self.engine, prompt, max_new_tokens=self.settings.max_new_tokens)
                record = self.log.add(key, {"text": text})
            right = is_right(question, record["text"], self.settings.judge)
            self.no_video_records.append({"kind": question.kind, "right": right, "haystack": haystack.plan.name})

    def _prompt(self, question: Question) -> str:
        return self.settings.prompt.replace("{question}", question.text)


def _key(plan: HaystackPlan, number: int, selector: str) -> str:
    return f"{plan.name}/{number}/{selector}"


def _with_defaults(settings: NiahSettings, engine: VideoXL, needles: Sequence[PictureNeedle]) -> NiahSettings:
    """Fill in the defaults that depend on the model and the needles."""
    if needles:
        if settings.needles > len(needles):
            raise ValueError(f"needles={settings.needles}, but {settings.pictures} holds {len(needles)}")
        return replace(settings, samples=settings.samples or len(needles))
    knows_time = bool(engine.config.time_format)
    kinds = settings.kinds or tuple(k for k in DEFAULT_KINDS if knows_time or k not in TIMED)
    return replace(settings, samples=settings.samples or DEFAULT_SAMPLES, kinds=kinds)


def _comparison(
    decode: DecodeStrategy, selectors: Sequence[str], siglip: str | SiglipRelevance | None, engine: VideoXL
) -> Comparison:
    if not selectors:
        return Comparison()
    check_selectors(selectors, decode)
    if "siglip" not in selectors:
        return Comparison(tuple(selectors))
    try:
        return Comparison(tuple(selectors), siglip=siglip_for(engine, True if siglip is None else siglip))
    except ValueError as error:  # the model has none of its own
        others = tuple(selector for selector in selectors if selector != "siglip")
        if not others:
            raise
        return Comparison(others, unavailable={"siglip": str(error)})


def _described(
    settings: NiahSettings, comparison: Comparison, prefill: PrefillStrategy, decode: DecodeStrategy
) -> Json:
    """Return the settings for the result, with files by their names only."""
    names = {
        name: Path(path).name if path else None
        for name, path in (("haystack", settings.haystack), ("pictures", settings.pictures))
    }
    return {**asdict(settings), **names, "prefill": prefill, "decode": decode, "ways": comparison.selectors}


def _identity(
    settings: NiahSettings,
    engine: VideoXL,
    comparison: Comparison,
    prefill: PrefillStrategy,
    decode: DecodeStrategy,
    video: VideoSource | None,
) -> Json:
    """Return all that answers depend on, with files by their content, so that a run may go on elsewhere."""
    return {
        **asdict(settings),
        "prefill": str(prefill),
        "decode": str(decode),
        "haystack": video.digest if video else None,
        "pictures": digest(settings.pictures) if settings.pictures else None,
        "model": engine.fingerprint,
        "dtype": engine.dtype,
        "ways": list(comparison.selectors),
    }
