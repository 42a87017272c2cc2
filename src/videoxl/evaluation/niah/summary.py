"""Turn answers into cells, averages and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from videoxl.evaluation.costs import reading_seconds
from videoxl.evaluation.log import Json
from videoxl.evaluation.metrics import accuracy, mean_chance, micro_macro, share_interval, wilson_interval
from videoxl.evaluation.niah.settings import GIVEN


def summary(
    records: Sequence[Json],
    no_video: Sequence[Json],
    failed: Mapping[str, str],
    *,
    selectors: Sequence[str],
    unavailable: Mapping[str, str],
) -> Json:
    """Return all numbers of a run, by selector where several are compared. Averages over nothing are None."""
    by_selector = {s: of_selector([r for r in records if r["way"] == s]) for s in selectors}
    numbers = by_selector.get(GIVEN) or {"ways": by_selector, "not_available": dict(unavailable)}
    return {
        **numbers,
        "chance": mean_chance(record["chance"] for record in records),
        "no_video": {
            "accuracy": accuracy(record["right"] for record in no_video),
            "questions": len(no_video),
            "by_kind": micro_macro(no_video, "kind", correct="right")["by"],
        },
        "failed": dict(failed),
    }


def of_selector(records: Sequence[Json]) -> Json:
    """Return accuracy with its interval (by resampling whole haystacks), by kind of question, and the cells."""
    right = [record["right"] for record in records]
    inner = [record for record in records if record["inner"]]
    return {
        "accuracy": accuracy(right),
        "interval": share_interval(right, clusters=[record["haystack"] for record in records]),
        "questions": len(records),
        "inner_accuracy": accuracy(record["right"] for record in inner),
        "inner_seen": accuracy(record["seen"] for record in inner),
        "inner_questions": len(inner),
        "read_share": fmean(r["read_tokens"] / r["memory_tokens"] for r in records) if records else None,
        "by_kind": micro_macro(records, "kind", correct="right")["by"],
        "cells": cells(records),
    }


def cells(records: Sequence[Json]) -> list[Json]:
    """Return a cell for every length and depth. A cell of which nothing could be read is left out."""
    places = sorted({(record["frames"], record["depth"]) for record in records})
    return [_cell(*place, [r for r in records if (r["frames"], r["depth"]) == place]) for place in places]


def _cell(frames: int, depth: float, records: Sequence[Json]) -> Json:
    right = sum(record["right"] for record in records)
    by_haystack = {r["haystack"]: r for r in records}.values()
    return {
        "frames": frames,
        "depth": depth,
        "accuracy": right / len(records),
        "interval": wilson_interval(right, len(records)),
        "right": right,
        "questions": len(records),
        "haystacks": len(by_haystack),
        "chance": mean_chance(record["chance"] for record in records),
        "seen": accuracy(record["seen"] for record in records),
        "by_kind": micro_macro(records, "kind", correct="right")["by"],
        "memory_tokens": round(fmean(r["memory_tokens"] for r in by_haystack)),
        "memory_bytes": max(r["memory_bytes"] for r in by_haystack),
        "peak_gpu_bytes": max((r["peak_gpu_bytes"] for r in records if r["peak_gpu_bytes"] is not None), default=None),
        "reading_seconds": round(fmean(reading_seconds(r["seconds"]) for r in by_haystack), 3),
        "answer_seconds": round(fmean(r["seconds"]["generate"] for r in records), 3),
    }


def grid(cells: Iterable[Json]) -> str:
    """Draw accuracy in percent, with a row per depth and a column per length."""
    by_place = {(cell["frames"], cell["depth"]): cell["accuracy"] for cell in cells}
    lengths, depths = (sorted({place[n] for place in by_place}) for n in (0, 1))
    lines = ["depth " + "".join(f"{length:>8,}" for length in lengths) + "  frames"]
    for depth in depths:
        row = [by_place.get((length, depth)) for length in lengths]
        lines.append(f"{depth:<6g}" + "".join(f"{'-' if a is None else f'{100 * a:.0f}':>8}" for a in row))
    return "\n".join(lines)


def text(result: Json) -> str:
    """Show a result in a terminal."""
    lines = [selectors_table(result)] if "ways" in result else _accuracy_lines(result)
    lines += [f"chance       {percent(result['chance'])}"]
    control = result["no_video"]
    asked = with_interval(control["accuracy"], control["questions"]) if control["questions"] else "n.a. (not asked)"
    lines += [f"no video     {asked}"]
    lines += [f"failed       {name}: {why}" for name, why in result["failed"].items()]
    return "\n".join(lines)


def _accuracy_lines(result: Json) -> list[str]:
    kinds = ", ".join(
        f"{kind} {with_interval(found['accuracy'], found['samples'])}" for kind, found in result["by_kind"].items()
    )
    low, high = result["interval"] or (None, None)
    return [
        *([grid(result["cells"])] if result["cells"] else []),
        f"accuracy     {percent(result['accuracy'])} ({percent(low)} to {percent(high)}), "
        f"{result['questions']} questions: {kinds}",
    ]


def selectors_table(result: Json) -> str:
    """Show compared selectors as Markdown, a row each.

    ``inner``: needles outside the first and last block, which every selector reads. ``seen``: the share of these that
    stood in what was read densely. ``read``: the share of the memory's tokens that a question read.
    """
    lines = ["| selector | accuracy | inner needles | seen | read | questions |", "|---|---|---|---|---|---|"]
    for selector, found in result["ways"].items():
        inner = found["inner_questions"]
        shown = (
            with_interval(found["accuracy"], found["questions"]),
            *(with_interval(found[name], inner) for name in ("inner_accuracy", "inner_seen")),
            percent(found["read_share"]),
        )
        lines.append(f"| {selector} | {' | '.join(shown)} | {found['questions']}, inner {inner} |")
    lines += [f"| {selector} | n.a.: {why} | | | | |" for selector, why in result["not_available"].items()]
    return "\n".join(lines)


def with_interval(share: float | None, questions: int) -> str:
    """Show a share of questions with Wilson's 95 % interval: ``90.0 % (59.6 to 98.2)``."""
    between = None if share is None else wilson_interval(round(share * questions), questions)
    return percent(share) + (f" ({100 * between[0]:.1f} to {100 * between[1]:.1f})" if between else "")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
