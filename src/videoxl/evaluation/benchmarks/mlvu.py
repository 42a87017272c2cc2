"""MLVU: dev and test questions with options, and the two generation tasks (github.com/JUNJIE99/MLVU)."""

from __future__ import annotations

import os
from pathlib import Path

from videoxl.evaluation.benchmarks.answers import before_bracket, lmms_letter
from videoxl.evaluation.benchmarks.items import Item, Record, read_records, right_letter, split_question
from videoxl.evaluation.benchmarks.protocol import Benchmark, Protocol, numbered, round_options


def read_choices(path: str | os.PathLike[str]) -> list[Item]:
    """Read MLVU's own JSON files (``question``, ``candidates``, ``answer``, ``question_type``), one or a folder of
    them, or the form of the Hub's ``sy1998/MLVU_dev`` and ``MLVU_Test`` (options within ``question``).
    """
    return numbered(_choice(record, number) for number, record in enumerate(read_records(path)))


def _choice(record: Record, number: int) -> Item:
    question = record.text("question")
    if "candidates" in record.value:
        options = tuple(record.texts("candidates"))
    else:
        question, options = split_question(question.rstrip())
    video = record.text("video_name", "video")
    kind = record.text("task_type", "question_type")
    answer = right_letter(record, record.text("answer"), options)
    own_id = record.optional("question_id")
    key = own_id or f"{number:05d} {Path(video).name}"
    return Item(key=key, video=video, question=question, options=options, answer=answer, categories={"task_type": kind})


def read_open(path: str | os.PathLike[str]) -> list[Item]:
    """Read the generation tasks: ``8_sub_scene.json``, ``9_summary.json``."""
    return numbered(_open(record, number) for number, record in enumerate(read_records(path)))


def _open(record: Record, number: int) -> Item:
    video = record.text("video", "video_name")
    kind = record.text("question_type", "task_type")
    key = f"{number:05d} {Path(video).name}"
    question, answer = record.text("question"), record.text("answer")
    return Item(key=key, video=video, question=question, answer=answer, categories={"task_type": kind})


def listed(item: Item) -> str:
    """The question with its options below it, as the Hub's form holds it."""
    return f"{item.question}\n{round_options(item)}"


def selection_id(item: Item, prompt: str) -> str:
    """The released evaluation takes the prompt up to the first option, without spaces around it."""
    return f"{Path(item.video).name}_{prompt.split(chr(10) + '(')[0].strip()}"


RELEASED = Protocol(
    source="Video-XL-2/eval/lvu/pure/lmms_eval/tasks/mlvu/utils.py",
    ask=lambda item: f"\n{listed(item)}\nOnly give the best option.\n\nBest option: (",
    letter=lambda text, item: before_bracket(text),
    times_in_seconds=True,
)


def _lmms(end: str) -> Protocol:
    return Protocol(
        source="lmms_eval/tasks/mlvu/utils.py",
        ask=lambda item: listed(item) + end,
        letter=lambda text, item: lmms_letter(text, "ABCD"),
        stop=("\n\n",),
    )


MLVU = Benchmark(
    name="mlvu",
    title="MLVU dev, questions with options",
    data="MVLU/MVLU on the Hub, MLVU/json; or sy1998/MLVU_dev",
    read=read_choices,
    item=_choice,
    protocols={"released": RELEASED, "lmms": _lmms("\nOnly give the best option.\nBest option: (")},
    average="micro",
    average_source="Video-XL-2's results.json: 73.87304507819687 is 1606 of 2174, chunked 1593, bi-level 1626. "
    "lmms-eval 0.7 prints the mean over kinds of questions instead.",
    selection_id=selection_id,
)
MLVU_TEST = Benchmark(
    name="mlvu-test",
    title="MLVU test, questions with options",
    data="MLVU/MLVU_Test on the Hub, with the published answers; or sy1998/MLVU_Test",
    read=read_choices,
    item=_choice,
    protocols={"released": RELEASED, "lmms": _lmms("")},
    average="micro",
    average_source="Video-XL-2's mlvu_test/utils.py returns the share of all questions; it prints the mean over kinds "
    "too, which MLVU's leaderboard calls M-Avg.",
    selection_id=selection_id,
)
MLVU_GENERATION = Benchmark(
    name="mlvu-generation",
    title="MLVU dev, sub-scene captioning and summaries",
    data="MVLU/MVLU on the Hub, 8_sub_scene.json and 9_summary.json",
    read=read_open,
    item=_open,
    protocols={
        "official": Protocol(
            source="github.com/JUNJIE99/MLVU, video_chat/open_bench.py",
            ask=lambda item: item.question,
            letter=lambda text, item: text,
            max_new_tokens=1000,
        )
    },
    judged="GPT-4 turbo gives 1 to 5 for two criteria each (generation_evaluation/ of github.com/JUNJIE99/MLVU)",
)
