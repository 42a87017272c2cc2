"""Show results of VNBench and temporal grounding in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from videoxl.evaluation.log import Json
from videoxl.evaluation.metrics import wilson_interval


def text(result: Json) -> str:
    """Return the table of a result, how it was run, and what failed."""
    run, failed = result["run"], result["failed"]
    shown = ("prompt", "sampling", "prefill", "decode", "dtype", "hardware")
    lines = [
        f"{result['benchmark']}, {run['model']}",
        "",
        *_TABLES[result["benchmark"]](result["scores"]),
        "",
        "; ".join(f"{name} {run[name]}" for name in shown),
    ]
    if failed:
        lines.append(f"{len(failed)} FAILED and count as wrong:")
        lines += [f"  {key}: {reason}" for key, reason in list(failed.items())[:5]]
        lines += [f"  and {len(failed) - 5} more"] if len(failed) > 5 else []
    return "\n".join(lines)


def _grounding(scores: Json) -> list[str]:
    rows = [[name, _percent(scores[name]), _interval(between)] for name, between in scores["interval"].items()]
    return [
        *_aligned([["", "%", "95 % interval"], *rows]),
        f"{scores['events']} events in {scores['videos']} videos; {scores['without_span']} answers name no time, "
        f"{scores['unanswered']} are missing",
    ]


def _vnbench(scores: Json) -> list[str]:
    types = [
        [name, _percent(one["accuracy"]), f"{one['questions']}, {_wilson(one['accuracy'], one['questions'])}"]
        for name, one in scores["types"].items()
    ]
    tasks = [[name, _percent(value), ""] for name, value in scores["tasks"].items()]
    totals = [
        ["overall (mean of tasks)", _percent(scores["overall"]), str(scores["questions"])],
        ["micro (all questions alike)", _percent(scores["micro"]), _interval(scores["interval"])],
        ["overall by the released rule", _percent(scores["released_rule"]), ""],
        ["single tries", _percent(scores["single_try"]), ""],
        ["guessing", _percent(scores["chance"]), f"single tries {_percent(scores['single_try_chance'])}"],
    ]
    return [
        *_aligned([["", "%", "questions, 95 % interval"], *types, ["", "", ""], *tasks, ["", "", ""], *totals]),
        f"{scores['no_option_chosen']} answers choose no option, {scores['unanswered']} are missing",
    ]


_TABLES = {"grounding": _grounding, "vnbench": _vnbench}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _interval(between: Sequence[float] | None) -> str:
    return "-" if between is None else f"{_percent(between[0])} to {_percent(between[1])}"


def _wilson(share: float | None, questions: int) -> str:
    return "-" if share is None else _interval(wilson_interval(round(share * questions), questions))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns, numbers to the right."""
    names, numbers = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"{row[0]:<{names}}  {row[1]:>{numbers}}  {row[2]}".rstrip() for row in rows]
