"""Video-MME (arXiv 2405.21075) and Video-MME-v2 (github.com/MME-Benchmarks/Video-MME-v2)."""

from __future__ import annotations

import ast
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from videoxl.evaluation.benchmarks.answers import JOINED_PHRASES, V2_PHRASES, first_capital, lmms_letter
from videoxl.evaluation.benchmarks.items import Item, Record, read_records, right_letter, without_letters
from videoxl.evaluation.benchmarks.protocol import LETTER_DIRECTLY, Benchmark, Protocol, dot_options, numbered
from videoxl.evaluation.log import Json

SELECT = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond "
    "with only the letter (A, B, C, or D) of the correct option."
)
SELECT_V2 = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
    "(A, B, C, D, E, F, G, or H) of the correct option."
)


def read(path: str | os.PathLike[str]) -> list[Item]:
    """Read ``test-00000-of-00001.parquet`` of ``lmms-lab/Video-MME``, or the same records as JSON."""
    return numbered(map(_item, read_records(path)))


def _item(record: Record) -> Item:
    options = without_letters(record.list_of("options", str))
    return Item(
        key=record.text("question_id"),
        video=f"{record.text('videoID')}.mp4",
        question=record.text("question"),
        options=options,
        answer=right_letter(record, record.text("answer"), options),
        categories=record.categories("duration", "domain", "sub_category", "task_type"),
    )


def selection_id(item: Item, prompt: str) -> str:
    """The released evaluation takes the prompt between its instruction and the list of options."""
    return f"{Path(item.video).name}_{prompt.split(chr(10) + '[')[0].split('option.' + chr(10))[-1]}"


VIDEOMME = Benchmark(
    name="videomme",
    title="Video-MME, without subtitles",
    data="lmms-lab/Video-MME on the Hub",
    read=read,
    item=lambda record, number: _item(record),
    protocols={
        "released": Protocol(
            source="Video-XL-2/eval/lvu/pure/lmms_eval/tasks/videomme/utils.py",
            # the options are a list of Python, with its quotes and brackets
            ask=lambda item: f"{SELECT}\n{item.question}\n{dot_options(item)!s}\n\n{LETTER_DIRECTLY}",
            letter=lambda text, item: first_capital(text, "ABCD", JOINED_PHRASES),
            times_in_seconds=True,
        ),
        "lmms": Protocol(
            source="lmms_eval/tasks/videomme/utils.py",
            ask=lambda item: "\n".join([SELECT, item.question, *dot_options(item), "", LETTER_DIRECTLY]),
            letter=lambda text, item: lmms_letter(text, "ABCD"),
            stop=("\n\n",),
        ),
    },
    average="micro",
    average_source="Video-XL-2's videomme/utils.py and results.json: 66.37 of 100 is 1792 of 2700 questions. Every "
    "third is about short, medium and long videos, so the mean over durations is the same.",
    selection_id=selection_id,
)


def read_v2(path: str | os.PathLike[str]) -> list[Item]:
    """Read Video-MME-v2's ``test.parquet``: four questions about each video, with options ``A. ...`` to ``H. ...``."""
    return numbered(map(_item_v2, read_records(path)))


def _item_v2(record: Record) -> Item:
    value = record.value.get("options")
    lines = value.split("\n") if isinstance(value, str) else record.list_of("options", str)
    options = without_letters([line for line in lines if line.strip()])
    kind, structure = record.text("group_type"), record.optional("group_structure")
    if kind not in ("relevance", "logic"):
        raise record.bad(f"group_type must be relevance or logic, got {kind!r}")
    if kind == "logic" and _structure(structure) is None:
        raise record.bad(f"group_structure must be one of {', '.join(map(str, _LOGIC))}, got {structure!r}")
    key = record.text("question_id")
    if not re.fullmatch(r"[0-9]{1,6}", key.rpartition("-")[2]):
        raise record.bad(f"question_id must end in its place in the group, 001-1 say; got {key!r}")
    return Item(
        key=key,
        video=f"{record.text('video_id')}.mp4",
        question=record.text("question"),
        options=options,
        answer=right_letter(record, record.text("answer"), options),
        categories=record.categories("group_type", "group_structure", "level", "second_head", "third_head"),
    )


_LOGIC: dict[str, tuple[float, ...]] = {
    "[1, 2, 3, 4]": (0, 1 / 16, 4 / 16, 9 / 16, 1),
    "[1, [2, 3], 4]": (0, 1 / 12, 4 / 12, 7 / 12, 1),
    "[[1, 2], 3, 4]": (0, 1 / 10, 2 / 10, 5 / 10, 1),
}
"""Scores of a logic group by how far its chain of right answers goes. Numbers in brackets are side by side."""


def _structure(text: str) -> str | None:
    try:
        found = str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return None
    return found if found in _LOGIC else None


def group_score(kind: str, structure: str, right: Sequence[bool]) -> float:
    """Return the score of a video's four questions, 0 to 1.

    ``relevance``: the square of the share that is right. ``logic``: how far the chain of right answers goes from the
    first question on; of two questions side by side, the second one counts without the first.
    """
    if kind == "relevance":
        return (sum(right) / 4) ** 2
    form = _structure(structure) or "[1, 2, 3, 4]"
    chain = next((place for place, one in enumerate(right) if not one), len(right))
    beside = {"[1, [2, 3], 4]": 1, "[[1, 2], 3, 4]": 0}.get(form)
    if chain == beside and len(right) > chain + 1 and right[chain + 1]:
        chain += 1
    return _LOGIC[form][chain]


def group_scores(outcomes: Sequence[tuple[Item, bool]]) -> Json:
    """Return the mean score of all groups, and by kind and by level of each group's last question."""
    groups: dict[str, list[tuple[Item, bool]]] = defaultdict(list)
    for item, right in outcomes:
        groups[item.video].append((item, right))
    scores: dict[str, list[float]] = defaultdict(list)
    for group in groups.values():
        group.sort(key=lambda one: int(one[0].key.rsplit("-", 1)[-1]))
        first, last = group[0][0].categories, group[-1][0].categories
        score = group_score(first["group_type"], first.get("group_structure", ""), [right for _, right in group])
        for name in ("group_score", first["group_type"], f"level {last.get('level')}"):
            scores[name].append(score)
    return {name: fmean(values) for name, values in sorted(scores.items())}


VIDEOMME_V2 = Benchmark(
    name="videomme-v2",
    title="Video-MME-v2, without subtitles",
    data="MME-Benchmarks/Video-MME-v2 on the Hub",
    read=read_v2,
    item=lambda record, number: _item_v2(record),
    protocols={
        "lmms": Protocol(
            source="lmms_eval/tasks/videomme_v2/utils.py",
            ask=lambda item: "\n".join([f"Question: {item.question}", *dot_options(item), SELECT_V2]),
            letter=lambda text, item: first_capital(text, "ABCDEFGH", V2_PHRASES),
            max_new_tokens=64,
            stop=("\n\n",),
        )
    },
    average="group_score",
    average_source="the benchmark's authors: questions come in groups of four about one video, and a group is scored",
    own_scores=group_scores,
)
