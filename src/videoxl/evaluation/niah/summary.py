"""From answers to cells, averages and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from videoxl.evaluation.metrics import accuracy, bootstrap_interval, mean_chance, micro_macro, wilson_interval
from videoxl.evaluation.niah.settings import GIVEN

Record = Mapping[str, Any]


def summary(
    records: Sequence[Record],
    blind: Sequence[Record],
    failed: Mapping[str, str],
    *,
    ways: Sequence[str],
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """All numbers of a run; with ``ways`` compared, those of each. Averages over nothing are None."""
    by_way = {way: of_way([r for r in records if r["way"] == way]) for way in ways}
    numbers: dict[str, Any] = by_way[GIVEN] if GIVEN in by_way else {"ways": by_way, "not_available": dict(missing)}
    return {
        **numbers,
        "chance": mean_chance(record["chance"] for record in records),
        "no_video": {
            "accuracy": accuracy(record["right"] for record in blind),
            "questions": len(blind),
            "by_kind": micro_macro(blind, "kind", correct="right")["by"],
        },
        "failed": dict(failed),
    }


def of_way(records: Sequence[Record]) -> dict[str, Any]:
    """Accuracy with its interval (whole haystacks drawn anew), by kind of question, and the cells."""
    right = [record["right"] for record in records]
    inner = [record for record in records if record["inner"]]
    return {
        "accuracy": accuracy(right),
        "interval": bootstrap_interval(right, clusters=[record["haystack"] for record in records]),
        "questions": len(records),
        "inner_accuracy": accuracy(record["right"] for record in inner),
        "inner_seen": accuracy(record["seen"] for record in inner),
        "inner_questions": len(inner),
        "read_share": fmean(r["read_tokens"] / r["memory_tokens"] for r in records) if records else None,
        "by_kind": micro_macro(records, "kind", correct="right")["by"],
        "cells": cells(records),
    }


def cells(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Of every length and depth; a cell of which nothing could be read is not there."""
    places = sorted({(record["frames"], record["depth"]) for record in records})
    return [_cell(*place, [r for r in records if (r["frames"], r["depth"]) == place]) for place in places]


def _cell(frames: int, depth: float, records: Sequence[Record]) -> dict[str, Any]:
    right = sum(record["right"] for record in records)
    reading = {r["haystack"]: r for r in records}.values()
    return {
        "frames": frames,
        "depth": depth,
        "accuracy": right / len(records),
        "interval": wilson_interval(right, len(records)),
        "right": right,
        "questions": len(records),
        "haystacks": len(reading),
        "chance": mean_chance(record["chance"] for record in records),
        "seen": accuracy(record["seen"] for record in records),
        "by_kind": micro_macro(records, "kind", correct="right")["by"],
        "memory_tokens": round(fmean(r["memory_tokens"] for r in reading)),
        "memory_bytes": max(r["memory_bytes"] for r in reading),
        "peak_gpu_bytes": max((r["peak_gpu_bytes"] for r in records if r["peak_gpu_bytes"] is not None), default=None),
        "reading_seconds": round(fmean(_reading_seconds(r) for r in reading), 3),
        "answer_seconds": round(fmean(r["seconds"]["generate"] for r in records), 3),
    }


def _reading_seconds(record: Record) -> float:
    """Of the video, which was paid once for all questions about it."""
    return sum(record["seconds"].get(phase, 0.0) for phase in ("decode", "vision", "prefill"))


def grid(cells: Iterable[Record]) -> str:
    """Accuracy in percent, a row per depth and a column per length."""
    by_place = {(cell["frames"], cell["depth"]): cell["accuracy"] for cell in cells}
    lengths, depths = (sorted({place[n] for place in by_place}) for n in (0, 1))
    lines = ["depth " + "".join(f"{length:>8,}" for length in lengths) + "  frames"]
    for depth in depths:
        row = [by_place.get((length, depth)) for length in lengths]
        lines.append(f"{depth:<6g}" + "".join(f"{'-' if a is None else f'{100 * a:.0f}':>8}" for a in row))
    return "\n".join(lines)


def text(result: Mapping[str, Any]) -> str:
    """What a person reads of a result."""
    lines = [ways_table(result)] if "ways" in result else _accuracy_lines(result)
    lines += [f"chance       {percent(result['chance'])}"]
    control = result["no_video"]
    lines += [f"no video     {percent(control['accuracy'])}" + ("" if control["questions"] else " (not asked)")]
    lines += [f"failed       {name}: {why}" for name, why in result["failed"].items()]
    return "\n".join(lines)


def _accuracy_lines(result: Mapping[str, Any]) -> list[str]:
    kinds = ", ".join(f"{kind} {percent(found['accuracy'])}" for kind, found in result["by_kind"].items())
    low, high = result["interval"] or (None, None)
    return [
        *([grid(result["cells"])] if result["cells"] else []),
        f"accuracy     {percent(result['accuracy'])} ({percent(low)} to {percent(high)}), "
        f"{result['questions']} questions: {kinds}",
    ]


def ways_table(result: Mapping[str, Any]) -> str:
    """Of ways compared: a row each, as Markdown.

    ``inner``: needles outside the first and last block, which every way reads. ``seen``: of these, how many stood in
    what was read densely. ``read``: the share of the memory's tokens that a question read.
    """
    lines = ["| way | accuracy | inner needles | seen | read | questions |", "|---|---|---|---|---|---|"]
    for way, found in result["ways"].items():
        shown = (percent(found[n]) for n in ("accuracy", "inner_accuracy", "inner_seen", "read_share"))
        lines.append(f"| {way} | {' | '.join(shown)} | {found['questions']}, inner {found['inner_questions']} |")
    lines += [f"| {way} | n.a.: {why} | | | | |" for way, why in result["not_available"].items()]
    return "\n".join(lines)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
