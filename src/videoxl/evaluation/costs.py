"""What answers cost: seconds, frames, tokens and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from videoxl.evaluation.log import Json

READING_PHASES = ("decode", "vision", "prefill")
"""Phases of an answer's ``seconds`` that are reading the video. ``decode`` decodes frames."""
COUNTED = ("frames", "visual_tokens", "memory_tokens", "read_tokens", "new_tokens", "memory_bytes")
"""Fields of a record of which results hold the mean."""


def reading_seconds(seconds: Mapping[str, float]) -> float:
    """Return what reading the video took. It is paid once for all questions about the video."""
    return sum(seconds.get(phase, 0.0) for phase in READING_PHASES)


def costs(records: Sequence[Json]) -> Json:
    """Sum up the records of answers: means per answer, the greatest peak, and how many videos had warnings."""
    if not records:
        return {}
    peaks = [record["peak_gpu_bytes"] for record in records if record["peak_gpu_bytes"] is not None]
    phases = sorted({phase for record in records for phase in record["seconds"]})
    return {
        **{f"mean_{name}": sum(record[name] for record in records) / len(records) for name in COUNTED},
        "mean_seconds": {p: sum(record["seconds"].get(p, 0.0) for record in records) / len(records) for p in phases},
        "peak_gpu_bytes": max(peaks, default=None),
        "samples_with_warnings": sum(bool(record["warnings"]) for record in records),
        "empty_answers": sum(not record["text"] for record in records),
    }


def costs_with_reading(records: Sequence[Json]) -> Json:
    """Return costs per answer, and per video what reading it took, which the first of its answers paid."""
    readings = [record["seconds"] for record in records if record["paid_reading"]]
    total = [reading_seconds(seconds) for seconds in readings]
    per_answer = [sum(s for phase, s in record["seconds"].items() if phase not in READING_PHASES) for record in records]
    return {
        **costs([dict(record) for record in records]),
        "reading_seconds_per_video": sum(total) / len(total) if total else None,
        "seconds_per_answer": sum(per_answer) / len(per_answer) if per_answer else None,
    }
