"""Show results side by side: a table and plots, as Markdown, PNG and one HTML page; published scores beside them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import NotRequired, TypedDict

import jinja2

from videoxl.evaluation.comparing import Pair, compare_all
from videoxl.evaluation.log import write_bytes
from videoxl.evaluation.metrics import wilson_interval
from videoxl.evaluation.plots import PLOTS, draw, line_of
from videoxl.evaluation.rows import Point, Row, read_rows, result_files
from videoxl.text import visible

RESULT_COLUMNS = (
    "benchmark",
    "model",
    "prefill",
    "decode",
    "accuracy",
    "95 % interval",
    "questions",
    "failed",
    "frames",
    "s a video",
    "MB",
    "file",
)
COMPARED_COLUMNS = (
    "benchmark",
    "first",
    "second",
    "questions",
    "first %",
    "second %",
    "difference, 95 %",
    "only first",
    "only second",
    "p",
    "differs in",
)
COMPARED = (
    "Results on the same questions. The difference is the second's accuracy less the first's, in percentage points, "
    "with an interval by resampling whole videos. p is of McNemar's exact test on the questions that only one of them "
    "answers rightly: below 0.05, so uneven a split is unlikely if both are equally good. Among many comparisons some "
    "are below it by chance."
)
PUBLISHED_COLUMNS = ("model", "benchmark", "mode", "%", "95 % interval", "right", "questions", "frames", "problems")
NUMBERS = frozenset(
    {"accuracy", "95 % interval", "questions", "failed", "frames", "s a video", "MB", "%", "right", "p"}
)
"""Columns that are aligned to the right."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("videoxl.evaluation"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class PublishedScore(TypedDict):
    """A score of a released model as published, in percent."""

    model: str
    benchmark: str
    mode: str
    score: float
    right: int
    """Questions that were answered rightly, of :attr:`questions`."""
    questions: int
    max_frames: int
    blocks: NotRequired[list[int]]
    """Groups in a block, and blocks before it that are seen."""
    problems: list[str]
    """Names of :attr:`Published.problems`."""


class Published(TypedDict):
    """The published scores, their settings, and what is wrong with them."""

    about: str
    settings: str
    problems: dict[str, str]
    scores: list[PublishedScore]


@dataclass(frozen=True)
class Plot:
    """A PNG picture of one of :data:`PLOTS` against frames."""

    what: str
    png: bytes

    @property
    def name(self) -> str:
        """File name."""
        return f"{self.what}.png"

    @property
    def label(self) -> str:
        return f"{PLOTS[self.what]}, against frames read"

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A section of the report: a table, and what belongs to it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    about: str = ""
    plots: Sequence[Plot] = ()
    terms: Mapping[str, str] = field(default_factory=dict)
    """Words used in the table, and what they mean."""
    notes: Sequence[str] = ()
    numbers: frozenset[str] = NUMBERS


def published_scores() -> Published:
    """Return the published scores that the package ships."""
    text = files("videoxl.evaluation").joinpath("published.json").read_text(encoding="utf-8")
    found: Published = json.loads(text)
    return found


def write_report(results: Sequence[str], folder: Path, *, published: bool = True) -> list[dict[str, object]]:
    """Write ``report.md``, ``report.html`` and a ``.png`` for each plot into ``folder``, and return the rows.

    ``results``: result files, or folders that hold some. Raises :class:`EvaluationError` for a file that is no result.
    """
    rows = read_rows(results)
    tables = [_results(rows)]
    pairs, others = compare_all(result_files(results))
    if pairs or others:
        tables.append(_compared(pairs, others))
    if published:
        tables.append(_published(published_scores()))
    write_bytes(folder / "report.md", visible(_markdown(tables)).encode())
    page = _TEMPLATES.get_template("report.html").render(tables=tables)
    write_bytes(folder / "report.html", visible(page).encode())
    for plot in tables[0].plots:
        write_bytes(folder / plot.name, plot.png)
    return [row.to_dict() for row in rows]


def _results(rows: Sequence[Row]) -> Table:
    return Table(
        title="Results",
        columns=RESULT_COLUMNS,
        rows=[_cells(row) for row in rows],
        plots=[Plot(what, draw(rows, what)) for what in PLOTS if any(line_of(row, what) for row in rows)],
        notes=_environments(rows),
    )


def _compared(pairs: Sequence[Pair], others: Sequence[str]) -> Table:
    return Table(
        title="Compared",
        columns=COMPARED_COLUMNS,
        rows=[_compared_cells(pair) for pair in pairs],
        about=COMPARED,
        notes=others,
    )


def _compared_cells(pair: Pair) -> list[str]:
    found = pair.comparison
    low, high = found.interval
    return [
        pair.first.benchmark,
        pair.first.source,
        pair.second.source,
        f"{found.questions:,}",
        _percent(found.first),
        _percent(found.second),
        f"{100 * (found.second - found.first):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
        str(found.only_first),
        str(found.only_second),
        f"{found.p_value:.2g}",
        "; ".join([*pair.settings, *pair.machine]) or "nothing that is recorded",
    ]


def _published(known: Published) -> Table:
    return Table(
        title="Published",
        columns=PUBLISHED_COLUMNS,
        rows=[_published_cells(score) for score in known["scores"]],
        about=f"{known['about']} {known['settings']}",
        terms=known["problems"],
    )


def _cells(row: Row) -> list[str]:
    """Return a row of the table. Costs are those of the last point, the longest video of a grid."""
    last = row.points[-1] if row.points else Point(0.0, None, None, None)
    low, high = row.interval or (None, None)
    return [
        row.benchmark,
        row.model,
        row.prefill,
        row.decode,
        f"{_percent(row.accuracy)} {row.metric}",
        f"{_percent(low)} to {_percent(high)}" if row.interval else "-",
        f"{row.samples:,}",
        str(row.failed),
        _number(last.frames, "{:,.0f}"),
        _number(last.seconds, "{:,.1f}"),
        _number(None if last.bytes is None else last.bytes / 1e6, "{:,.1f}"),
        row.source,
    ]


def _published_cells(score: PublishedScore) -> list[str]:
    mode = score["mode"] + (f", blocks {score['blocks'][0]}/{score['blocks'][1]}" if "blocks" in score else "")
    problems = ", ".join(score["problems"])
    low, high = wilson_interval(score["right"], score["questions"]) or (None, None)
    between = f"{_percent(low)} to {_percent(high)}"
    counts = [between, f"{score['right']:,}", f"{score['questions']:,}", str(score["max_frames"])]
    return [score["model"], score["benchmark"], mode, f"{score['score']:.2f}", *counts, problems]


def _environments(rows: Sequence[Row]) -> list[str]:
    """Say on which hardware and with which versions results were made, once for those that are alike."""
    sources: dict[str, list[str]] = {}
    for row in rows:
        versions = ", ".join(f"{name} {value}" for name, value in row.versions.items() if value)
        sources.setdefault(f"{row.hardware or 'unknown hardware'}; {versions}", []).append(row.source)
    return [f"{', '.join(dict.fromkeys(made))}: {environment}" for environment, made in sources.items()]


def _markdown(tables: Sequence[Table]) -> str:
    parts = ["# Evaluation"]
    for table in tables:
        parts += [f"## {table.title}", *([table.about] if table.about else [])]
        lines = [_line(table.columns), _line(["---"] * len(table.columns)), *map(_line, table.rows)]
        parts.append("\n".join(lines))
        parts += [f"![{plot.label}]({plot.name})" for plot in table.plots]
        notes = [*(f"*{name}*: {meaning}" for name, meaning in table.terms.items()), *table.notes]
        parts += ["\n".join(f"* {note}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _percent(share: float | None) -> str:
    return "n.a." if share is None else f"{100 * share:.1f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
