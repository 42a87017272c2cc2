"""LVBench (arXiv 2406.08035): videos of half an hour to two hours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from videoxl.evaluation.benchmarks.answers import lmms_letter, lvbench_released
from videoxl.evaluation.benchmarks.items import (
    Item,
    Record,
    read_records,
    right_letter,
    split_question,
    without_letters,
)
from videoxl.evaluation.benchmarks.protocol import LETTER_DIRECTLY, Benchmark, Protocol, numbered, round_options


def read(path: str | os.PathLike[str]) -> list[Item]:
    """Read ``video_info.meta.jsonl``, a line per video with its questions under ``qa``; or a record per question."""
    records = read_records(path)
    return numbered(item for number, record in enumerate(records) for item in _items(record, number))


def _items(record: Record, number: int) -> Iterator[Item]:
    if "qa" not in record.value:
        yield _item(record, record.text("video", "video_path", "key"), record.optional("type"), number)
        return
    for place, question in enumerate(record.list_of("qa", dict)):
        one = Record(question, f"{record.where}, question {place}")
        yield _item(one, record.text("key"), record.optional("type"), number)


def _item(record: Record, video: str, kind: str, number: int) -> Item:
    question, options = split_question(record.text("question").rstrip())
    given = record.texts("candidates", "options")
    options = without_letters(given) if given else options
    uid = record.optional("uid")
    return Item(
        key=f"{Path(video).stem} {uid}" if uid else f"{number:05d} {Path(video).stem}",
        video=video if video.endswith(".mp4") else f"{video}.mp4",
        question=question,
        options=options,
        answer=right_letter(record, record.text("answer"), options),
        categories={"type": kind, **record.categories("question_type")},
    )


def _released(item: Item) -> str:
    """Options have two letters in the released data: ``A. (A) News report``."""
    options = [f"{letter}. ({letter}) {option}" for letter, option in zip(item.letters, item.options)]
    return "\n".join([item.question, *options, LETTER_DIRECTLY])


def selection_id(item: Item, prompt: str) -> str:
    """The released evaluation takes the prompt up to the first option, and the video without its ending."""
    return f"{Path(item.video).stem}_{prompt.split(chr(10) + 'A.')[0]}"


LVBENCH = Benchmark(
    name="lvbench",
    title="LVBench",
    data="THUDM/LVBench on the Hub, video_info.meta.jsonl; the videos are on YouTube",
    read=read,
    item=lambda record, number: next(_items(record, number)),
    protocols={
        "released": Protocol(
            source="Video-XL-2/eval/lvu/pure/lmms_eval/tasks/lvbench/utils.py",
            ask=_released,
            letter=lambda text, item: lvbench_released(text),
            times_in_seconds=True,
            unread="left out",
        ),
        "lmms": Protocol(
            source="lmms_eval/tasks/lvbench/utils.py",
            ask=lambda item: f"{item.question}\n{round_options(item)}\nAnswer the question with the option letter",
            letter=lambda text, item: lmms_letter(text, "ABCD"),
            stop=("\n\n",),
        ),
    },
    average="micro",
    average_source="Video-XL-2's results.json: 46.61071659134925 is 722 of 1549 questions of six parts together",
    selection_id=selection_id,
)
