"""VNBench (VideoNIAH, arXiv 2406.09367): needles in videos that must be retrieved, ordered and counted.

Every question is asked four times with its options in another order, and is right only if all four answers are. The
annotations are the released ``VNBench-main-4try.json``: a list of records with ``video``, ``question``, ``options``,
``gt`` (the right option's text), ``type`` (``ret_edit``, ``ord_insert1``, ``cnt_edit2`` ...) and ``try``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videoxl.config import Sampling
from videoxl.errors import EvaluationError
from videoxl.evaluation.annotations import find_video, parse_json, read_text
from videoxl.evaluation.choices import LETTERS, chosen_option
from videoxl.evaluation.log import SampleLog
from videoxl.evaluation.metrics import accuracy, choice_chance, wilson_interval
from videoxl.evaluation.prompts import VNBENCH
from videoxl.evaluation.samples import Reading, Sample, Tell, answer_all, result
from videoxl.video import VideoSource

TRIES = 4
TASKS = {"ret": "retrieval", "ord": "ordering", "cnt": "counting"}
"""How types begin, and the task they belong to."""


@dataclass(frozen=True)
class Try:
    """One of the four times that a question is asked."""

    key: str
    question_key: str
    """Of the question, the same in all its tries."""
    video: str
    type: str
    question: str
    options: tuple[str, ...]
    answer: int
    """Which option is right, from 0."""

    @property
    def task(self) -> str:
        return TASKS[self.type[:3]]


def read_tries(path: str | os.PathLike[str]) -> list[Try]:
    """All tries of the annotations, in their order.

    Where every question is there once, the other three tries are made of it by moving the options on by one place.
    Raises :class:`EvaluationError` naming the record that cannot be used, or a question that has not four tries.
    """
    found = parse_json(read_text(path), path)
    if not isinstance(found, list) or not found:
        raise EvaluationError(f"annotations {path} must hold a list of records, got {type(found).__name__}")
    tries = [_try(record, f"{path}, record {number}") for number, record in enumerate(found)]
    by_question: dict[str, list[Try]] = defaultdict(list)
    for one in tries:
        by_question[one.question_key].append(one)
    if all(len(asked) == 1 for asked in by_question.values()):
        tries = [_moved(one, places) for one in tries for places in range(TRIES)]
    elif wrong := [key for key, asked in by_question.items() if len(asked) != TRIES]:
        raise EvaluationError(
            f"annotations {path}: {len(wrong)} questions have not {TRIES} tries, the first is {wrong[0]!r} with "
            f"{len(by_question[wrong[0]])}"
        )
    count: dict[str, int] = defaultdict(int)
    named = []
    for one in tries:
        named.append(replace(one, key=f"{one.question_key} #{count[one.question_key]}"))
        count[one.question_key] += 1
    return named


def first_questions(tries: Sequence[Try], limit: int | None) -> list[Try]:
    """The tries of the first ``limit`` questions, whole."""
    kept = set(list(dict.fromkeys(one.question_key for one in tries))[:limit])
    return [one for one in tries if one.question_key in kept]


def whole_seconds(source: VideoSource) -> Sampling:
    """One frame a second, that on screen at each whole second: the 1 fps of the released evaluation."""
    return Sampling(times=tuple(float(second) for second in range(max(1, int(source.info.duration or 0)))))


def reading(*, prompt: str = "video-xl", **how: Any) -> Reading:
    """``how``: prefill, decode, max_new_tokens."""
    note = "the frame at each whole second"
    return Reading(sampling=whole_seconds, note=note, system=VNBENCH[prompt].system, **how)


def evaluate(
    engine: Any,
    tries: Sequence[Try],
    videos: str | os.PathLike[str],
    log: SampleLog,
    how: Reading,
    *,
    prompt: str = "video-xl",
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Ask every question in all its tries and score the answers; the result is JSON-ready.

    ``videos``: the folder of the video files; ``how``: what :func:`reading` gives.
    """
    layout = VNBENCH[prompt]
    asked = [Sample(t.key, find_video(videos, t.video), layout.text(t.question, t.options)) for t in tries]
    answered = answer_all(engine, asked, log, how, tell=tell)
    texts = {key: record["text"] for key, record in answered.records.items()}
    samples = [_sample(one, texts.get(one.key)) for one in tries]
    return result(engine, log, answered, score(tries, texts), samples)


def score(tries: Sequence[Try], texts: Mapping[str, str]) -> dict[str, Any]:
    """Accuracies, 0 to 1, of questions right in all their tries.

    Of every type; of the tasks, as the mean of their types; ``overall`` as the mean of the tasks, as published; and
    ``micro``, of all questions alike. ``released_rule`` is ``overall`` with answers read as the released script does
    (:func:`released_letter`); ``single_try`` is the accuracy of tries, each for itself. An answer that is not there is
    wrong.
    """
    strict = {t.key: chosen_option(texts.get(t.key, ""), t.options) == t.answer for t in tries}
    loose = {t.key: released_letter(texts.get(t.key, "")) == LETTERS[t.answer] for t in tries}
    found = _tables(tries, strict)
    right = [question["right"] for question in _questions(tries, strict)]
    options = len(tries[0].options) if tries else TRIES
    return {
        **found,
        "micro": accuracy(right),
        "interval": wilson_interval(sum(right), len(right)),
        "questions": len(right),
        "released_rule": _tables(tries, loose)["overall"],
        "single_try": accuracy(strict.values()),
        "chance": choice_chance(options) ** TRIES,
        "single_try_chance": choice_chance(options),
        "no_option_chosen": sum(t.key in texts and chosen_option(texts[t.key], t.options) is None for t in tries),
        "unanswered": sum(t.key not in texts for t in tries),
    }


def released_letter(text: str) -> str:
    """The letter that the released evaluation and the benchmark's own script read together.

    What stands in the first round brackets, or the whole text; of it what comes before the first full stop; and of that
    the first of A, B, C and D that occurs anywhere. So "I cannot tell. A" is none, and "(None, Because)" is B.
    """
    bracketed = re.findall(r"\((.*?)\)", text)
    told = (bracketed[0] if bracketed else text).split(".")[0]
    return next((letter for letter in LETTERS[:TRIES] if letter in told), told)


def _questions(tries: Sequence[Try], right: Mapping[str, bool]) -> list[dict[str, Any]]:
    """One record per question: its type, its task, and whether all its tries are right."""
    questions: dict[str, dict[str, Any]] = {}
    for one in tries:
        question = questions.setdefault(one.question_key, {"type": one.type, "task": one.task, "right": True})
        question["right"] = question["right"] and right[one.key]
    return list(questions.values())


def _tables(tries: Sequence[Try], right: Mapping[str, bool]) -> dict[str, Any]:
    by_type: dict[str, list[bool]] = defaultdict(list)
    for question in _questions(tries, right):
        by_type[question["type"]].append(question["right"])
    types = {name: {"accuracy": accuracy(c), "questions": len(c)} for name, c in sorted(by_type.items())}
    tasks = {}
    for begin, task in TASKS.items():
        own = [sum(c) / len(c) for name, c in by_type.items() if name.startswith(begin)]
        tasks[task] = sum(own) / len(own) if own else None
    there = [value for value in tasks.values() if value is not None]
    return {"types": types, "tasks": tasks, "overall": sum(there) / len(there) if there else None}


def _sample(one: Try, text: str | None) -> dict[str, Any]:
    chosen = None if text is None else chosen_option(text, one.options)
    return {
        "key": one.key,
        "video": one.video,
        "type": one.type,
        "truth": LETTERS[one.answer],
        "text": text,
        "chosen": None if chosen is None else LETTERS[chosen],
    }


def _try(record: Any, where: str) -> Try:
    if not isinstance(record, dict):
        raise EvaluationError(f"annotations {where} is no record but a {type(record).__name__}")
    texts = {name: record.get(name) for name in ("video", "question", "type")}
    options = record.get("options")
    if not all(isinstance(value, str) and value for value in texts.values()) or not isinstance(options, list):
        raise EvaluationError(f"annotations {where} needs video, question and type as texts, and a list of options")
    if texts["type"][:3] not in TASKS:  # type: ignore[index]
        raise EvaluationError(f"annotations {where}: type {texts['type']!r} does not begin with {', '.join(TASKS)}")
    told = tuple(str(option) for option in options)
    answer = str(record.get("gt"))
    if told.count(answer) != 1 or len(told) > len(LETTERS):
        raise EvaluationError(f"annotations {where}: gt {answer!r} must be one of the options, once; got {list(told)}")
    question_key = f"{texts['type']} {Path(str(texts['video'])).name} {texts['question']}"
    return Try(
        "", question_key, str(texts["video"]), str(texts["type"]), str(texts["question"]), told, told.index(answer)
    )


def _moved(one: Try, places: int) -> Try:
    """The options moved on by ``places``, the last ones to the front."""
    count = len(one.options)
    options = tuple(one.options[(n - places) % count] for n in range(count))
    return replace(one, options=options, answer=(one.answer + places) % count)
