"""VNBench (VideoNIAH, arXiv 2406.09367): needles in videos that must be retrieved, ordered and counted.

Every question is asked four times, each time with its options in another order. It is right only if all four answers
are. The annotations are the released ``VNBench-main-4try.json``: a list of records with ``video``, ``question``,
``options``, ``gt`` (the right option's text), ``type`` (``ret_edit``, ``ord_insert1``, ``cnt_edit2`` ...) and ``try``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from videoxl.config import DecodeStrategy, PrefillStrategy, Sampling
from videoxl.errors import EvaluationError
from videoxl.evaluation.annotations import find_video, parse_json, read_text
from videoxl.evaluation.choices import LETTERS, chosen_option
from videoxl.evaluation.log import Json, SampleLog
from videoxl.evaluation.metrics import accuracy, choice_chance, wilson_interval
from videoxl.evaluation.prompts import VNBENCH
from videoxl.evaluation.samples import AnswerSettings, Sample, Tell, answer_all, make_result
from videoxl.inference.engine import VideoXL
from videoxl.video import VideoSource

TRIES = 4
TASKS = {"ret": "retrieval", "ord": "ordering", "cnt": "counting"}
"""First three letters of a type, and the task it belongs to."""


@dataclass(frozen=True)
class Try:
    """One of the four times that a question is asked."""

    key: str
    question_key: str
    """The same in all tries of a question."""
    video: str
    type: str
    question: str
    options: tuple[str, ...]
    answer: int
    """Index of the right option."""

    @property
    def task(self) -> str:
        return TASKS[self.type[:3]]


def read_tries(path: str | os.PathLike[str]) -> list[Try]:
    """Read all tries of the annotations, in their order.

    If every question occurs once, the other three tries are made from it by rotating its options by one place.
    Raises :class:`EvaluationError`, which names the record that cannot be used or a question without four tries.
    """
    found = parse_json(read_text(path), path)
    if not isinstance(found, list) or not found:
        raise EvaluationError(f"annotations {path} must hold a list of records, got {type(found).__name__}")
    tries = [_parse(record, f"{path}, record {number}") for number, record in enumerate(found)]
    by_question: dict[str, list[Try]] = defaultdict(list)
    for one in tries:
        by_question[one.question_key].append(one)
    if all(len(asked) == 1 for asked in by_question.values()):
        tries = [_rotated(one, places) for one in tries for places in range(TRIES)]
    elif wrong := [key for key, asked in by_question.items() if len(asked) != TRIES]:
        raise EvaluationError(
            f"annotations {path}: {len(wrong)} questions do not have {TRIES} tries, the first is {wrong[0]!r} with "
            f"{len(by_question[wrong[0]])}"
        )
    count: dict[str, int] = defaultdict(int)
    named = []
    for one in tries:
        named.append(replace(one, key=f"{one.question_key} #{count[one.question_key]}"))
        count[one.question_key] += 1
    return named


def first_questions(tries: Sequence[Try], limit: int | None) -> list[Try]:
    """Return all tries of the first ``limit`` questions."""
    kept = set(list(dict.fromkeys(one.question_key for one in tries))[:limit])
    return [one for one in tries if one.question_key in kept]


def whole_seconds(source: VideoSource) -> Sampling:
    """Choose the frame on screen at each whole second of the video: the 1 fps of the released evaluation."""
    seconds = range(max(1, int(source.info.duration or 0)))
    return Sampling(times=tuple(source.info.start + second for second in seconds))


def answer_settings(
    *,
    prompt: str = "video-xl",
    prefill: PrefillStrategy | str | None = None,
    decode: DecodeStrategy | str | None = None,
    max_new_tokens: int = 64,
    together: bool = True,
) -> AnswerSettings:
    """Read one frame a second, and ask with the system prompt that belongs to ``prompt``."""
    return AnswerSettings(
        sampling=whole_seconds,
        sampling_name="the frame at each whole second",
        system=VNBENCH[prompt].system,
        prefill=prefill,
        decode=decode,
        max_new_tokens=max_new_tokens,
        together=together,
    )


def evaluate(
    engine: VideoXL,
    tries: Sequence[Try],
    videos: str | os.PathLike[str],
    log: SampleLog,
    settings: AnswerSettings,
    *,
    prompt: str = "video-xl",
    tell: Tell | None = None,
) -> Json:
    """Ask every question in all its tries, score the answers, and return the result, ready for JSON.

    ``videos``: the folder of the video files; ``settings``: what :func:`answer_settings` returns.
    """
    layout = VNBENCH[prompt]
    questions = [Sample(t.key, find_video(videos, t.video), layout.text(t.question, t.options)) for t in tries]
    answers = answer_all(engine, questions, log, settings, tell=tell)
    samples = [_sample(one, answers.texts.get(one.key)) for one in tries]
    return make_result(engine, log, answers, score(tries, answers.texts), samples)


def score(tries: Sequence[Try], texts: Mapping[str, str]) -> Json:
    """Return the share of questions that are right in all their tries, 0 to 1.

    ``types``: by type. ``tasks``: the mean of a task's types. ``overall``: the mean of the tasks, as published.
    ``micro``: over all questions. ``released_rule``: ``overall`` with answers read as by the released script
    (:func:`released_letter`). ``single_try``: the share of right tries. A missing answer is wrong.
    """
    strict = {t.key: chosen_option(texts.get(t.key, ""), t.options) == t.answer for t in tries}
    loose = {t.key: released_letter(texts.get(t.key, "")) == LETTERS[t.answer] for t in tries}
    found = _averages(tries, strict)
    right = [question["right"] for question in _questions(tries, strict)]
    options = len(tries[0].options) if tries else TRIES
    return {
        **found,
        "micro": accuracy(right),
        "interval": wilson_interval(sum(right), len(right)),
        "questions": len(right),
        "released_rule": _averages(tries, loose)["overall"],
        "single_try": accuracy(strict.values()),
        "chance": choice_chance(options) ** TRIES,
        "single_try_chance": choice_chance(options),
        "no_option_chosen": sum(t.key in texts and chosen_option(texts[t.key], t.options) is None for t in tries),
        "unanswered": sum(t.key not in texts for t in tries),
    }


def released_letter(text: str) -> str:
    """Return the letter that the released evaluation and the benchmark's own script read, one after the other.

    They take what stands in the first round brackets, or else the whole text; of it, what comes before the first full
    stop; and of that, the first of A, B, C and D that occurs anywhere. So "I cannot tell. A" has no letter, and "(None,
    Because)" has B.
    """
    bracketed = re.findall(r"\((.*?)\)", text)
    part = (bracketed[0] if bracketed else text).split(".")[0]
    return next((letter for letter in LETTERS[:TRIES] if letter in part), part)


class _Outcome(TypedDict):
    """Whether all tries of a question are right."""

    type: str
    right: bool


class _Averages(TypedDict):
    types: dict[str, Json]
    tasks: dict[str, float | None]
    overall: float | None


def _questions(tries: Sequence[Try], right: Mapping[str, bool]) -> list[_Outcome]:
    """Return the outcome of every question."""
    questions: dict[str, _Outcome] = {}
    for one in tries:
        question = questions.setdefault(one.question_key, {"type": one.type, "right": True})
        question["right"] = question["right"] and right[one.key]
    return list(questions.values())


def _averages(tries: Sequence[Try], right: Mapping[str, bool]) -> _Averages:
    by_type: dict[str, list[bool]] = defaultdict(list)
    for question in _questions(tries, right):
        by_type[question["type"]].append(question["right"])
    types: dict[str, Json] = {
        name: {"accuracy": accuracy(c), "questions": len(c)} for name, c in sorted(by_type.items())
    }
    tasks: dict[str, float | None] = {}
    for begin, task in TASKS.items():
        own = [sum(c) / len(c) for name, c in by_type.items() if name.startswith(begin)]
        tasks[task] = sum(own) / len(own) if own else None
    known = [value for value in tasks.values() if value is not None]
    return {"types": types, "tasks": tasks, "overall": sum(known) / len(known) if known else None}


def _sample(one: Try, text: str | None) -> Json:
    chosen = None if text is None else chosen_option(text, one.options)
    return {
        "key": one.key,
        "video": one.video,
        "type": one.type,
        "truth": LETTERS[one.answer],
        "text": text,
        "chosen": None if chosen is None else LETTERS[chosen],
    }


def _parse(record: object, where: str) -> Try:
    if not isinstance(record, dict):
        raise EvaluationError(f"annotations {where} must be an object, got {type(record).__name__}")
    video, question, kind, options = (record.get(name) for name in ("video", "question", "type", "options"))
    if not all(isinstance(value, str) and value for value in (video, question, kind)) or not isinstance(options, list):
        raise EvaluationError(f"annotations {where} needs video, question and type as texts, and a list of options")
    if str(kind)[:3] not in TASKS:
        raise EvaluationError(f"annotations {where}: type {kind!r} does not begin with {', '.join(TASKS)}")
    texts = tuple(str(option) for option in options)
    answer = str(record.get("gt"))
    if texts.count(answer) != 1 or len(texts) > len(LETTERS):
        raise EvaluationError(f"annotations {where}: gt {answer!r} must be one of the options, once; got {list(texts)}")
    question_key = f"{kind} {Path(str(video)).name} {question}"
    return Try("", question_key, str(video), str(kind), str(question), texts, texts.index(answer))


def _rotated(one: Try, places: int) -> Try:
    """Move the options on by ``places``, the last ones to the front."""
    count = len(one.options)
    options = tuple(one.options[(n - places) % count] for n in range(count))
    return replace(one, options=options, answer=(one.answer + places) % count)
