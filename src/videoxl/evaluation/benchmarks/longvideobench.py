"""LongVideoBench, validation, with videos and without subtitles (arXiv 2407.15754)."""

from __future__ import annotations

import os
from pathlib import Path

from videoxl.evaluation.benchmarks.answers import PHRASES, first_capital
from videoxl.evaluation.benchmarks.items import Item, Record, read_records
from videoxl.evaluation.benchmarks.protocol import LETTER_DIRECTLY, Benchmark, Protocol, dot_options, numbered
from videoxl.evaluation.choices import LETTERS


def read(path: str | os.PathLike[str]) -> list[Item]:
    """Read ``lvb_val.json``, or the Hub's Parquet form with ``option0`` to ``option4``."""
    return numbered(map(_item, read_records(path)))


def _item(record: Record) -> Item:
    given = record.texts("candidates") or [record.optional(f"option{n}") for n in range(5)]
    options = tuple(option for option in given if option not in ("", "N/A"))
    right = record.value.get("correct_choice")
    if not isinstance(right, int) or not 0 <= right < len(options) <= len(LETTERS):
        raise record.bad(f"correct_choice must be 0 to {len(options) - 1}, got {right!r}")
    return Item(
        key=record.text("id"),
        video=record.text("video_path"),
        question=record.text("question"),
        options=options,
        answer=LETTERS[right],
        categories=record.categories("duration_group", "question_category"),
    )


def _ask(item: Item) -> str:
    return "\n".join([item.question, *dot_options(item), f"{LETTER_DIRECTLY}\n"])


def _protocol(source: str, **settings: bool | tuple[str, ...]) -> Protocol:
    """Both ask the same and read answers the same; an answer without a letter gets a random option."""
    return Protocol(
        source=source,
        ask=_ask,
        letter=lambda text, item: first_capital(text, "ABCDE", PHRASES),
        max_new_tokens=32,
        unread="random",
        **settings,  # type: ignore[arg-type]
    )


def selection_id(item: Item, prompt: str) -> str:
    """The released evaluation takes the prompt up to the first option."""
    return f"{Path(item.video).name}_{prompt.split(chr(10) + 'A.')[0]}"


LONGVIDEOBENCH = Benchmark(
    name="longvideobench",
    title="LongVideoBench, validation, without subtitles",
    data="longvideobench/LongVideoBench on the Hub, lvb_val.json",
    read=read,
    item=lambda record, number: _item(record),
    protocols={
        "released": _protocol(
            "Video-XL-2/eval/lvu/pure/lmms_eval/tasks/longvideobench/utils.py", times_in_seconds=True
        ),
        "lmms": _protocol("lmms_eval/tasks/longvideobench/utils.py", stop=("\n\n",)),
    },
    average="micro",
    average_source="Video-XL-2's results.json: 0.60209 is 805 of 1337. The released code averages over durations and "
    "kinds of questions with every question in one of each, which is the share of all questions.",
    selection_id=selection_id,
)
