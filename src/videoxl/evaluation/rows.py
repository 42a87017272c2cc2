"""Read results of every benchmark as rows of one kind, to be compared."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

from videoxl.errors import EvaluationError
from videoxl.evaluation.costs import reading_seconds
from videoxl.evaluation.log import Json

RESULT_FILES = ("niah.json", "result.json", "vnbench.json", "grounding.json")
"""Names of the result files that are looked for in folders."""


@dataclass(frozen=True)
class Point:
    """An accuracy and its costs: frames of a video, seconds to read it, bytes of its keys and values."""

    accuracy: float
    frames: float | None
    seconds: float | None
    bytes: float | None
    questions: int = 0
    """Of which :attr:`accuracy` is the share that was answered rightly; 0 where it is a mean of something else."""


@dataclass(frozen=True)
class Row:
    """One result, or one selector of several compared in it."""

    benchmark: str
    model: str
    prefill: str
    decode: str
    metric: str
    """What :attr:`accuracy` is: ``micro``, ``macro``, ``mean IoU`` ..."""
    accuracy: float | None
    interval: tuple[float, float] | None
    samples: int
    failed: int
    points: tuple[Point, ...] = field(default=())
    hardware: str = ""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    source: str = ""
    """The last two parts of the file's path."""

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return asdict(self)


def read_rows(results: Sequence[str]) -> list[Row]:
    """Read result files, or folders that hold some.

    Raises :class:`EvaluationError` for a file that is no result, or when there are none.
    """
    rows = [row for path in result_files(results) for row in _read(path)]
    if not rows:
        raise EvaluationError(f"no result in {', '.join(results)}: give files such as {' or '.join(RESULT_FILES)}")
    return rows


def result_files(results: Sequence[str]) -> list[Path]:
    """Return the files given, and those found in folders. Raises :class:`EvaluationError` for what does not exist."""
    found: list[Path] = []
    for given in results:
        path = Path(given)
        if path.is_dir():
            found += sorted(file for name in RESULT_FILES for file in path.rglob(name))
        elif path.is_file():
            found.append(path)
        else:
            raise EvaluationError(f"{given}: there is no such file or folder")
    return found


def _read(path: Path) -> list[Row]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = _niah(found) if "cells" in found or "ways" in found else [_benchmark(found)]
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        StopIteration,
    ) as error:
        raise EvaluationError(f"{path} is no result of an evaluation ({type(error).__name__}: {error})") from None
    source = "/".join(path.parts[-2:])
    return [replace(row, source=source) for row in rows]


def _niah(found: Json) -> list[Row]:
    """Return a row per selector, with a point per length. Files call a selector a way."""
    rows = []
    for selector, numbers in found.get("ways", {"": found}).items():
        by_length: dict[int, list[Json]] = defaultdict(list)
        for cell in numbers["cells"]:
            by_length[cell["frames"]].append(cell)
        points = [
            Point(
                sum(c["right"] for c in cells) / sum(c["questions"] for c in cells),
                frames,
                fmean(c["reading_seconds"] for c in cells),
                max(c["memory_bytes"] for c in cells),
                sum(c["questions"] for c in cells),
            )
            for frames, cells in sorted(by_length.items())
        ]
        decode = "dense" if selector == "dense" else found["run"]["decode"] + (f" ({selector})" if selector else "")
        rows.append(_row(found, "niah", decode, "micro", numbers["accuracy"], numbers, numbers["questions"], points))
    return rows


def _benchmark(found: Json) -> Row:
    """Return the row of a result of VNBench, temporal grounding or lmms-eval."""
    scores = found["scores"]
    costs = scores.get("costs") or found.get("costs") or {}
    metric, accuracy = _headline(found, scores)
    samples = next(scores[name] for name in ("samples", "questions", "events") if name in scores)
    points = [_point(accuracy, costs, samples if metric == "micro" else 0)] if costs and accuracy is not None else []
    interval = scores["interval"] if not isinstance(scores["interval"], dict) else scores["interval"].get(metric)
    shown: Json = {"interval": interval if metric in ("micro", "mIoU") else None}
    name = found["benchmark"] + (f" {found['mode']}" if found.get("mode") not in (None, "given") else "")
    return _row(found, name, found["run"]["decode"], metric, accuracy, shown, samples, points)


def _headline(found: Json, scores: Json) -> tuple[str, float | None]:
    """Return the average that published numbers are, with its name."""
    if found["benchmark"] == "grounding":
        return "mIoU", scores["mIoU"]
    if found["benchmark"] == "vnbench":
        return "overall", scores["overall"]
    if published := scores.get("published"):
        return str(published["average"]), published["value"]
    return ("macro", scores["macro"]) if found.get("headline") == "macro" else ("micro", scores["accuracy"])


def _point(accuracy: float, costs: Json, questions: int) -> Point:
    seconds = costs.get("reading_seconds_per_video")
    if seconds is None:
        seconds = reading_seconds(costs["mean_seconds"])
    return Point(accuracy, costs["mean_frames"], seconds, costs["mean_memory_bytes"], questions)


def _row(
    found: Json,
    benchmark: str,
    decode: str,
    metric: str,
    accuracy: float | None,
    numbers: Json,
    samples: int,
    points: Sequence[Point],
) -> Row:
    run, interval = found["run"], numbers["interval"]
    failed = found.get("failed") or found.get("scores", {}).get("failed") or {}
    return Row(
        benchmark=benchmark,
        model=run["model"],
        prefill=run["prefill"],
        decode=decode,
        metric=metric,
        accuracy=accuracy,
        interval=tuple(interval) if interval else None,
        samples=samples,
        failed=len(failed),
        points=tuple(points),
        hardware=run.get("hardware", ""),
        versions=run["versions"],
    )
