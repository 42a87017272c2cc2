"""Compare results of one benchmark question by question, and say in what their runs differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from videoxl.errors import EvaluationError
from videoxl.evaluation.log import Json
from videoxl.evaluation.paired import Comparison, compare
from videoxl.json_lines import read_json, read_json_lines

SAMPLES = "samples.jsonl"
"""The questions of a result, beside it."""
MACHINE = frozenset({"versions", "hardware", "device", "threads", "processes", "dtype"})
"""What a run was made on; told apart from its settings."""
NOT_COMPARED = frozenset({"command", "benchmark", "ways"})
QUESTIONS = (
    *("annotations", "task", "frames", "depths", "samples", "needles", "needle_frames", "haystack", "pictures"),
    *("kinds", "answers", "seed", "fps"),
)
"""Settings that say which questions were asked. Runs that differ in one of them have none in common."""


@dataclass(frozen=True)
class Answered:
    """A result's outcomes by the keys of its questions, and how it was run."""

    source: str
    benchmark: str
    run: Json
    right: Mapping[str, float]
    """0 to 1; for temporal grounding the overlap."""
    videos: Mapping[str, str]


@dataclass(frozen=True)
class Pair:
    """Two results compared."""

    first: Answered
    second: Answered
    comparison: Comparison
    settings: list[str] = field(default_factory=list)
    """Phrases for settings that differ: see :func:`differences`."""
    machine: list[str] = field(default_factory=list)
    """The same for hardware, dtype and versions."""


def compare_all(files: Sequence[Path]) -> tuple[list[Pair], list[str]]:
    """Compare every two results of one benchmark, and say which cannot be compared because they asked other questions.

    Raises :class:`EvaluationError` for files that are damaged.
    """
    found = [one for file in files for one in read_answered(file)]
    pairs, others = [], []
    for first, second in combinations(found, 2):
        if first.benchmark != second.benchmark:
            continue
        asked = [{name: one.run.get(name) for name in QUESTIONS} for one in (first, second)]
        if different := differences(*asked):
            others.append(f"{first.source} and {second.source} asked other questions: {'; '.join(different)}")
        elif first.right.keys() & second.right.keys():
            pairs.append(_pair(first, second))
    return pairs, others


def read_answered(file: Path) -> Iterator[Answered]:
    """Yield the outcomes of a result, one for each selector that a needle-in-a-haystack run compared.

    A result that has no outcomes by question, because it is from an older version or was not scored, yields nothing.
    """
    result = read_json(file, EvaluationError)
    run = result.get("run")
    if not isinstance(run, dict):
        return
    source, benchmark = "/".join(file.parts[-2:]), str(result.get("benchmark", "niah"))
    samples = [*_samples(file, result)]
    for way in sorted({str(one.get("way", "")) for one in samples}):
        own = {str(one["key"]): one for one in samples if str(one.get("way", "")) == way}
        right = {key: value for key, one in own.items() if (value := outcome_of(one)) is not None}
        if right:
            videos = {key: str(one.get("video", one.get("haystack", key))) for key, one in own.items()}
            name = f"{source} ({way})" if way not in ("", "given") else source
            settings = {**run, **({"decode": f"{run.get('decode')} ({way})"} if name != source else {})}
            yield Answered(name, benchmark, settings, right, videos)


def outcome_of(sample: Mapping[str, object]) -> float | None:
    """Return how right a sample was; None if it does not say."""
    right = sample.get("right", sample.get("iou"))
    if isinstance(right, (bool, int, float)):
        return float(right)
    if "chosen" in sample and "truth" in sample:  # a try of VNBench
        return float(sample["chosen"] == sample["truth"])
    return None


def _samples(file: Path, result: Json) -> Iterator[Json]:
    """Yield the samples of a result: within it, beside it, or in the log of a haystack."""
    if isinstance(result.get("samples"), list):
        yield from result["samples"]
    elif (beside := file.with_name(SAMPLES)).is_file():
        yield from (sample for _, sample in read_json_lines(beside, EvaluationError))
    elif (log := file.with_name("answers.jsonl")).is_file() and file.name == "niah.json":
        for _, line in read_json_lines(log, EvaluationError, drop_cut=True):
            record = line.get("record")
            if isinstance(record, dict) and "way" in record:
                key = str(line["key"]).removesuffix(f"/{record['way']}")
                yield {"key": key, **record}


def _pair(first: Answered, second: Answered) -> Pair:
    before, now = (_flat({n: v for n, v in one.run.items() if n not in NOT_COMPARED}) for one in (first, second))
    found = differences(before, now)
    machine = [phrase for phrase in found if re.split(r"[ .]", phrase)[0] in MACHINE]
    settings = [phrase for phrase in found if phrase not in machine]
    return Pair(first, second, compare(first.right, second.right, first.videos), settings, machine)


def differences(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """Return a phrase for every setting that differs: ``decode 'dense', 'bilevel'``. Parts of objects are named."""
    one, other = _flat(first), _flat(second)
    names = sorted(one.keys() | other.keys())
    missing = "not told"
    return [
        f"{name} {one.get(name, missing)!r}, {other.get(name, missing)!r}"
        for name in names
        if one.get(name, missing) != other.get(name, missing)
    ]


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
