"""EgoSchema, LongTimeScope and VideoEval-Pro, as lmms-eval asks them."""

from __future__ import annotations

import os
from pathlib import Path

from videoxl.errors import EvaluationError
from videoxl.evaluation.annotations import parse_json, read_text
from videoxl.evaluation.benchmarks.answers import JOINED_PHRASES, egoschema_lmms, first_capital, lmms_letter
from videoxl.evaluation.benchmarks.items import (
    Item,
    Record,
    read_records,
    right_letter,
    split_question,
    without_letters,
)
from videoxl.evaluation.benchmarks.protocol import LETTER_DIRECTLY, Benchmark, Protocol, dot_options, numbered
from videoxl.evaluation.choices import LETTERS

# ----------------------------------------------------------------------------------------------------------- EgoSchema

ANSWERS = "subset_answers.json"


def read_egoschema(path: str | os.PathLike[str]) -> list[Item]:
    """Read ``questions.json`` with ``subset_answers.json`` beside it, or the Hub's form (``video_idx``, ``option``,
    ``answer``). Only questions with a published answer are asked: 500 of 5,031.
    """
    answers = _answers(Path(path))
    records = read_records(path)
    known = [record for record in records if _answer(record, answers) is not None]
    if not known:
        raise EvaluationError(
            f"annotations {path}: no question has an answer; put EgoSchema's {ANSWERS} beside the questions"
        )
    return numbered(_ego_item(record, str(_answer(record, answers))) for record in known)


def _answers(path: Path) -> dict[str, object]:
    beside = (path if path.is_dir() else path.parent) / ANSWERS
    if not beside.is_file() or beside == path:
        return {}
    found = parse_json(read_text(beside), beside)
    if not isinstance(found, dict):
        raise EvaluationError(f"annotations {beside} must hold an object of answers by question")
    return found


def _answer(record: Record, answers: dict[str, object]) -> object:
    given = record.value.get("answer")
    return answers.get(record.text("q_uid", "video_idx")) if given in (None, "") else given


def _ego_item(record: Record, answer: str) -> Item:
    key = record.text("q_uid", "video_idx")
    options = without_letters(record.texts("option") or [record.text(f"option {n}") for n in range(5)])
    numbers = [str(number) for number in range(len(options))]
    if answer not in numbers or len(options) > len(LETTERS):
        raise record.bad(f"the answer must be the number of one of {len(options)} options, got {answer!r}")
    return Item(
        key=key, video=f"{key}.mp4", question=record.text("question"), options=options, answer=LETTERS[int(answer)]
    )


EGOSCHEMA = Benchmark(
    name="egoschema",
    title="EgoSchema, the subset with published answers",
    data="github.com/egoschema/EgoSchema, or lmms-lab/egoschema on the Hub",
    read=read_egoschema,
    item=lambda record, number: _ego_item(record, record.text("answer")),
    protocols={
        "lmms": Protocol(
            source="lmms_eval/tasks/egoschema/utils.py",
            ask=lambda item: "\n".join([item.question, *dot_options(item), LETTER_DIRECTLY]),
            letter=lambda text, item: egoschema_lmms(text, dot_options(item), "ABCDE"),
            stop=("\n\n",),
            unread="random",
        )
    },
    average="micro",
    average_source="the share of right answers, as EgoSchema's server computes it",
)

# ------------------------------------------------------------------------------------------------------ LongTimeScope


def read_timescope(path: str | os.PathLike[str]) -> list[Item]:
    """Read LongTimeScope's records: ``id``, ``video``, ``length``, ``type``, ``input`` (the prompt) and ``answer``."""
    return numbered(map(_timescope_item, read_records(path)))


def _timescope_item(record: Record) -> Item:
    prompt = record.text("input", "question")
    question, options = split_question(prompt)
    answer = record.text("answer").strip()
    return Item(
        key=record.text("id"),
        video=record.text("video"),
        question=question,
        options=options,
        answer=answer.upper() if len(answer) == 1 else answer,
        categories=record.categories("length", "type"),
        prompt=prompt,
    )


LONGTIMESCOPE = Benchmark(
    name="longtimescope",
    title="LongTimeScope: videos of 10 minutes to 8 hours with clips inserted",
    data="Apollo-LMMs/LongTimeScope2 on the Hub",
    read=read_timescope,
    item=lambda record, number: _timescope_item(record),
    protocols={
        "lmms": Protocol(
            source="lmms_eval/tasks/longtimescope/utils.py",
            ask=lambda item: item.prompt,
            letter=lambda text, item: first_capital(text, "ABCDEF", JOINED_PHRASES),
            stop=("\n\n",),
        )
    },
    average="micro",
    average_source="lmms_eval/tasks/longtimescope/utils.py: the share of all questions",
    right=lambda found, item: (found or "").lower() == item.answer.lower(),
)

# ------------------------------------------------------------------------------------------------------ VideoEval-Pro


def read_videoeval_pro(path: str | os.PathLike[str]) -> list[Item]:
    """Read VideoEval-Pro's records: ``video``, ``question``, ``options``, ``answer``, ``answer_text``, ``qa_type``."""
    return numbered(_pro_item(record, number) for number, record in enumerate(read_records(path)))


def _pro_item(record: Record, number: int) -> Item:
    given = record.value.get("options")
    lines = given.split("\n") if isinstance(given, str) else record.list_of("options", str)
    options = without_letters([line.strip() for line in lines if line.strip()])
    return Item(
        key=f"{number:05d} {record.text('video')}",
        video=record.text("video"),
        question=record.text("question"),
        options=options,
        answer=right_letter(record, record.text("answer"), options),
        categories=record.categories("qa_type", "qa_subtype", "source"),
    )


def _open_item(record: Record, number: int) -> Item:
    item = _pro_item(record, number)
    return Item(
        key=item.key,
        video=item.video,
        question=item.question,
        answer=record.text("answer_text"),
        categories=item.categories,
    )


def read_videoeval_pro_open(path: str | os.PathLike[str]) -> list[Item]:
    """The same records, asked without their options."""
    return numbered(_open_item(record, number) for number, record in enumerate(read_records(path)))


VIDEOEVAL_PRO = Benchmark(
    name="videoeval-pro",
    title="VideoEval-Pro, with its options",
    data="TIGER-Lab/VideoEval-Pro on the Hub",
    read=read_videoeval_pro,
    item=_pro_item,
    protocols={
        "lmms": Protocol(
            source="lmms_eval/tasks/videoevalpro/utils.py",
            ask=lambda item: "\n".join([item.question, *dot_options(item), "Answer with the option letter only."]),
            letter=lambda text, item: lmms_letter(text, item.letters),
            stop=("\n\n",),
        )
    },
    average="micro",
    average_source="lmms_eval/tasks/videoevalpro/utils.py: overall",
)
VIDEOEVAL_PRO_OPEN = Benchmark(
    name="videoeval-pro-open",
    title="VideoEval-Pro, open answers",
    data=VIDEOEVAL_PRO.data,
    read=read_videoeval_pro_open,
    item=_open_item,
    protocols={
        "lmms": Protocol(
            source="lmms_eval/tasks/videoevalpro/utils.py",
            ask=lambda item: f"{item.question} Keep the answer short and concise.",
            letter=lambda text, item: text,
            stop=("\n\n",),
        )
    },
    judged="gpt-4o-2024-11-20 says whether an answer is right (lmms_eval/tasks/videoevalpro/utils.py)",
)
