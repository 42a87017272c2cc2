"""Show the result of a benchmark in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videoxl.evaluation.log import Json


def text(result: Json) -> str:
    """Return the scores, how the benchmark was asked, and what failed."""
    scores, run = result["scores"], result["run"]
    lines = [
        f"{result['benchmark']}, {run['model']}: {scores['samples']} questions about {scores['videos']} videos",
        f"asked      prompts {run['prompts']}, sampling {run['sampling']}, prefill {run['prefill']}, decode "
        f"{run['decode']}, {run['dtype']}",
        *(_judged(scores) if scores["accuracy"] is None and "judge" in scores else _scored(scores)),
    ]
    if named := result.get("selections"):
        lines.append(f"selections {named['named']} questions are named in the released files, {named['not_named']} not")
    lines += [f"failed     {key}: {why}" for key, why in list(result["failed"].items())[:5]]
    lines += [f"           and {len(result['failed']) - 5} more"] if len(result["failed"]) > 5 else []
    return "\n".join(lines)


def _judged(scores: Mapping[str, Any]) -> list[str]:
    return [
        f"not scored: {scores['judge']}. The answers are in predictions.json",
        f"{scores['empty_answers']} answers are empty, {scores['unanswered']} are missing",
    ]


def _scored(scores: Mapping[str, Any]) -> list[str]:
    low, high = scores["interval"] or (None, None)
    published = scores["published"]
    lines = [
        f"published  {percent(published['value'])}, which is the {published['average']} average",
        f"micro      {percent(scores['accuracy'])} (95 %: {percent(low)} to {percent(high)})",
        f"macro      {percent(scores['macro'])}",
        f"careful    {percent(scores['strict'])}: answers read by the package's own rule",
        f"guessing   {percent(scores['chance'])}",
    ]
    for name, averages in scores["by"].items():
        lines.append(f"{name}: " + ", ".join(f"{k} {percent(v['accuracy'])}" for k, v in averages["by"].items()))
    lines.append(
        f"{scores['nothing_read']} answers say nothing that the rule reads, {scores['empty_answers']} are empty, "
        f"{scores['unanswered']} are missing"
    )
    return lines


def percent(share: float | None) -> str:
    """Write a share in percent."""
    return "n.a." if share is None else f"{100 * share:.1f} %"
