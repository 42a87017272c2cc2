"""OVO-Bench (arXiv 2501.05510): questions at a moment of a video, about what was, is and will be."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.resources import files
from statistics import fmean

from videoxl.evaluation.benchmarks.answers import digits
from videoxl.evaluation.benchmarks.items import Item, Record, read_records
from videoxl.evaluation.benchmarks.protocol import Benchmark, Protocol, numbered
from videoxl.evaluation.log import Json

PARTS = {
    "backward": ("EPM", "ASI", "HLD"),
    "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "forward": ("REC", "SSR", "CRR"),
}
PROMPTS: dict[str, str] = json.loads(
    files("videoxl.evaluation.benchmarks").joinpath("ovo_prompts.json").read_text(encoding="utf-8")
)
"""The authors' prompts, in a file because their lines end in spaces."""


def read(path: str | os.PathLike[str]) -> list[Item]:
    """Read ``ovo_bench_new.json``. Each question is about the video up to its moment: the file that the authors'
    script cut (``12.mp4``, ``12_0.mp4`` ...), or the whole video, read up to ``realtime``.
    """
    return numbered(item for record in read_records(path) for item in _items(record))


def part_of(task: str) -> str | None:
    """Return ``backward``, ``realtime`` or ``forward``; None for an unknown task."""
    return next((part for part, tasks in PARTS.items() if task in tasks), None)


def _items(record: Record) -> Iterator[Item]:
    task, number = record.text("task"), record.text("id")
    part = part_of(task)
    if part is None:
        raise record.bad(f"task must be one of {', '.join(t for tasks in PARTS.values() for t in tasks)}, got {task!r}")
    categories = {"part": part, "task": task}
    if part != "forward":
        options = tuple(record.list_of("options", str))
        right = record.value.get("gt")
        if not isinstance(right, int) or not 0 <= right < len(options):
            raise record.bad(f"gt must be 0 to {len(options) - 1}, got {right!r}")
        listed = "; ".join(f"{chr(65 + n)}. {option}" for n, option in enumerate(options)) + ";"
        yield Item(
            key=number,
            video=f"{number}.mp4",
            question=record.text("question"),
            options=options,
            answer=chr(65 + right),
            categories=categories,
            prompt=PROMPTS["choice"].format(record.text("question"), listed),
            whole_video=record.optional("video"),
            end=_moment(record),
        )
        return
    for round_, asked in enumerate(record.list_of("test_info", dict)):
        one = Record(asked, f"{record.where}, test {round_}")
        question, prompt, answer = _forward(task, record, one)
        yield Item(
            key=f"{number}_{round_}",
            video=f"{number}_{round_}.mp4",
            question=question,
            answer=answer,
            categories=categories,
            prompt=prompt,
            whole_video=record.optional("video"),
            end=_moment(one),
        )


def _forward(task: str, record: Record, one: Record) -> tuple[str, str, str]:
    """Return question, prompt and right answer of one round."""
    if task == "REC":
        question = f"How many times did they {record.text('activity')}?"
        return question, PROMPTS["count"].format(question), one.text("count")
    answer = "No" if one.text("type") == "0" else "Yes"
    if task == "SSR":
        return one.text("step"), PROMPTS["step"].format(one.text("step")), answer
    return record.text("question"), PROMPTS["enough"].format(record.text("question")), answer


def _moment(record: Record) -> float | None:
    value = record.value.get("realtime")
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def right(found: str | None, item: Item) -> bool:
    """An answer is right if it contains the right letter, or Yes or No; a count by all of its digits together."""
    text = (found or "").strip()
    if item.categories["task"] == "REC":
        return digits(text) == item.answer
    if item.categories["part"] == "forward" and text in ("Y", "N"):
        return item.answer.startswith(text)
    return item.answer in text


def averages(outcomes: Sequence[tuple[Item, bool]]) -> Json:
    """Return the accuracy of each task, the mean of each part's tasks, and the mean of the parts."""
    tasks: dict[str, list[bool]] = defaultdict(list)
    for item, is_right in outcomes:
        tasks[item.categories["task"]].append(is_right)
    shares = {task: fmean(map(float, values)) for task, values in sorted(tasks.items())}
    parts = {
        part: fmean(shares[task] for task in of if task in shares)
        for part, of in PARTS.items()
        if any(task in shares for task in of)
    }
    return {"tasks": shares, "parts": parts, "mean_of_parts": fmean(parts.values()) if parts else None}


OVO_BENCH = Benchmark(
    name="ovo-bench",
    title="OVO-Bench",
    data="github.com/JoeLeelyf/OVO-Bench, ovo_bench_new.json; JoeLeelyf/OVO-Bench on the Hub",
    read=read,
    item=lambda record, number: next(_items(record)),
    protocols={
        "lmms": Protocol(
            source="lmms_eval/tasks/ovobench, which keeps the authors' prompts and scores",
            ask=lambda item: item.prompt,
            letter=lambda text, item: text,
            max_new_tokens=128,
            stop=("\n\n",),
        )
    },
    average="mean_of_parts",
    average_source="OVOBenchScore.py of the authors: means of tasks within a part, and of the three parts",
    right=right,
    own_scores=averages,
)
