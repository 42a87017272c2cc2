"""Turn what lmms-eval wrote, and the logs beside it, into scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from videoxl.errors import EvaluationError
from videoxl.evaluation.costs import costs_with_reading
from videoxl.evaluation.lmms.outcomes import outcome_of
from videoxl.evaluation.log import Json
from videoxl.evaluation.metrics import micro_macro, share_interval
from videoxl.json_lines import read_json, read_json_lines


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
    found = judged(samples, records, failed, task=task)
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
        "costs": costs_with_reading([records[one["key"]] for one in found if one["key"] in records]),
    }


def judged(
    samples: Sequence[Json], records: Mapping[str, Json], failed: Mapping[str, Json], *, task: str
) -> list[Json]:
    """Return what is known of every sample, with ``correct``, in the order of the documents. See :func:`scored`."""
    keys = {key.rsplit("/", 1)[1]: key for key in (*records, *failed) if key.startswith(f"{task}/")}
    in_order = sorted(samples, key=lambda sample: int(sample["doc_id"]))  # several processes write in turns
    return [_one(sample, keys, records, failed, task) for sample in in_order]


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
    right = outcome_of(sample)
    if right is None:
        raise EvaluationError(f"task {task} does not say which answers are right: read its own scores in results.json")
    return {"key": key, "correct": right, "error": None, **records[key]}


def _with_subtitles(records: Sequence[Json]) -> int | None:
    """Return how many questions are about a video with subtitles; None in a run without subtitles."""
    cues = [record["subtitles"] for record in records if "subtitles" in record]
    return sum(map(bool, cues)) if cues else None


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
