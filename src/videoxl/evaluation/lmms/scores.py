"""Turn what lmms-eval wrote, and the logs beside it, into scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from videoxl.errors import EvaluationError
from videoxl.evaluation.costs import READING_PHASES, costs, reading_seconds
from videoxl.evaluation.log import Json
from videoxl.evaluation.metrics import micro_macro, share_interval
from videoxl.json_lines import read_json, read_json_lines

NOT_METRICS = frozenset(
    {"doc_id", "target", "input", "resps", "filtered_resps", "token_counts", "doc_hash", "input_media", "submission"}
)
"""Fields of a sample that lmms-eval itself writes. The others are metrics of the task."""


def outcome(value: object) -> float | None:
    """Return how right a sample was, 0 to 1, from a metric of its task; None if the metric does not say.

    Tasks write a number, or the option that they read in the answer beside the right one.
    """
    if isinstance(value, bool | int | float):
        return float(value) if 0 <= value <= 1 else None
    if not isinstance(value, Mapping):
        return None
    if "score" in value:
        return outcome(value["score"])
    for name in ("pred_answer", "parsed_pred"):
        if name in value and "answer" in value:
            return float(str(value[name]).lower() == str(value["answer"]).lower())
    return None


def scored(
    samples: Sequence[Json],
    records: Mapping[str, Json],
    failed: Mapping[str, Json],
    *,
    task: str,
    categories: Sequence[str] = (),
    seed: int = 0,
) -> Json:
    """Return all numbers of one task.

    Args:
        samples: lines of lmms-eval's sample file.
        records, failed: by key, from the logs of the plug-in. A failed sample counts as wrong, whatever its task made
            of it: LongVideoBench's draws an option for an answer it cannot read.
        categories: fields of the documents; those that the benchmark does not have are left out.

    Raises :class:`EvaluationError` if samples and logs do not belong together, or the task says no outcomes.
    """
    keys = {key.rsplit("/", 1)[1]: key for key in (*records, *failed) if key.startswith(f"{task}/")}
    in_order = sorted(samples, key=lambda sample: int(sample["doc_id"]))  # several processes write in turns
    found = [_one(sample, keys, records, failed, task) for sample in in_order]
    known = [name for name in categories if any(name in one["document"] for one in found)]
    for one in found:
        one |= {name: one["document"].get(name, "not told") for name in known}
    right = [one["correct"] for one in found]
    averages = {name: micro_macro(found, name) for name in known}
    return {
        "accuracy": sum(right) / len(right) if right else None,
        "interval": share_interval(right, seed=seed, clusters=[one["video"] for one in found]),
        "samples": len(found),
        "videos": len({one["video"] for one in found}),
        "by": averages,
        "macro": averages[known[0]]["macro"] if known else None,
        "failed": {one["key"]: one["error"] for one in found if one["error"]},
        "empty_answers": sum(not one["text"].strip() for one in found if not one["error"]),
        "with_subtitles": _with_subtitles([records[one["key"]] for one in found if one["key"] in records]),
        "costs": _costs([records[one["key"]] for one in found if one["key"] in records]),
    }


def _one(
    sample: Json,
    keys: Mapping[str, str],
    records: Mapping[str, Json],
    failed: Mapping[str, Json],
    task: str,
) -> Json:
    key = keys.get(str(sample["doc_id"]))
    if key is None:
        raise EvaluationError(
            f"sample {sample['doc_id']} of {task} is not in the logs: they are of another run; begin in a new folder"
        )
    if key in failed:
        return {"key": key, "correct": 0.0, "text": "", **failed[key]}
    metrics = [value for name, value in sample.items() if name not in NOT_METRICS]
    outcomes = [one for one in map(outcome, metrics) if one is not None]
    if not outcomes:
        raise EvaluationError(f"task {task} does not say which answers are right: read its own scores in results.json")
    return {"key": key, "correct": outcomes[0], "error": None, **records[key]}


def _with_subtitles(records: Sequence[Json]) -> int | None:
    """Return how many questions are about a video with subtitles; None in a run without subtitles."""
    cues = [record["subtitles"] for record in records if "subtitles" in record]
    return sum(map(bool, cues)) if cues else None


def _costs(records: Sequence[Json]) -> Json:
    """Return costs per answer, and per video what reading it took, which the first of its answers paid."""
    readings = [record["seconds"] for record in records if record["paid_reading"]]
    total = [reading_seconds(seconds) for seconds in readings]
    per_answer = [sum(s for phase, s in record["seconds"].items() if phase not in READING_PHASES) for record in records]
    return {
        **costs([dict(record) for record in records]),
        "reading_seconds_per_video": sum(total) / len(total) if total else None,
        "seconds_per_answer": sum(per_answer) / len(per_answer) if per_answer else None,
    }


def read_logs(folder: Path) -> tuple[Json, Json, Json]:
    """Return how a run was made, its answered samples and its failed ones, of all processes.

    Raises :class:`EvaluationError` for a folder without any, and for files that are damaged.
    """
    records: Json = {}
    failed: Json = {}
    for path in sorted(folder.glob("samples-*.jsonl")):
        for line, found in read_json_lines(path, EvaluationError):
            if "key" in found:
                if not isinstance(found["key"], str) or not isinstance(found.get("record"), dict):
                    raise EvaluationError(f"{line.place} holds no key and record: remove that line and resume")
                records[found["key"]] = found["record"]
    for path in sorted(folder.glob("samples-*.failed.json")):
        failed |= read_json(path, EvaluationError)
    made = [read_json(path, EvaluationError) for path in sorted(folder.glob("samples-*.run.json"))]
    if not made:
        raise EvaluationError(f"{folder} holds no log of samples: the run ended before its first answer")
    return made[0], records, {key: found for key, found in failed.items() if key not in records}
