"""Results side by side: a table and plots, as Markdown, PNG and one HTML page; published scores beside them."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from videoxl.errors import MissingDependencyError
from videoxl.evaluation.log import write_bytes
from videoxl.evaluation.rows import Point, Row, read_rows

AXES = {
    "frames": "frames read",
    "seconds": "seconds to read a video",
    "bytes": "MB of keys and values",
}
"""What accuracy is drawn against."""
RESULTS = ["benchmark", "model", "prefill", "decode", "accuracy", "95 % interval", "questions", "failed"]
RESULTS += ["frames", "s a video", "MB", "file"]
PUBLISHED = ["model", "benchmark", "mode", "%", "frames", "problems"]
STYLE = "body{font:15px system-ui;max-width:80em;margin:2em auto;padding:0 1em}img{max-width:100%}"
STYLE += "div{overflow-x:auto}table{border-collapse:collapse;font-size:13px}li{overflow-wrap:anywhere}"
STYLE += "td,th{border:1px solid #ccc;padding:.25em .5em;text-align:left;white-space:nowrap}"
LEGEND_LINE = 0.19
"""Inches of a line of the legend."""


def published_scores() -> dict[str, Any]:
    """The published scores, their settings, and what is wrong with them."""
    text = files("videoxl.evaluation").joinpath("published.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def write_report(results: Sequence[str], folder: Path, *, published: bool = True) -> list[dict[str, Any]]:
    """Write ``report.md``, ``report.html`` and ``accuracy-*.png`` into ``folder``; returns the rows.

    Raises :class:`EvaluationError` for what is no result.
    """
    rows = read_rows(results)
    plots = {axis: draw(rows, axis) for axis in AXES if any(_xy(row, axis) for row in rows)}
    tables = [("Results", RESULTS, [_cells(row) for row in rows])]
    notes = _how(rows)
    if published:
        known = published_scores()
        tables.append(("Published", PUBLISHED, _published(known)))
        notes += [f"Published scores: {known['about']} {known['settings']}"]
        notes += [f"*{name}*: {why}" for name, why in known["problems"].items()]
    write_bytes(folder / "report.md", _markdown(tables, list(plots), notes).encode())
    write_bytes(folder / "report.html", _page(tables, plots, notes).encode())
    for axis, picture in plots.items():
        write_bytes(folder / f"accuracy-{axis}.png", picture)
    return [row.to_dict() for row in rows]


def _cells(row: Row) -> list[str]:
    """The last point, the longest video of a grid, stands for what it took."""
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


def _published(known: dict[str, Any]) -> list[list[str]]:
    rows = []
    for one in known["scores"]:
        mode = one["mode"] + (f", blocks {one['blocks'][0]}/{one['blocks'][1]}" if "blocks" in one else "")
        score, frames, problems = f"{one['score']:.2f}", str(one["max_frames"]), ", ".join(one["problems"])
        rows.append([one["model"], one["benchmark"], mode, score, frames, problems])
    return rows


def _how(rows: Sequence[Row]) -> list[str]:
    """On what, and with which versions; said once for those that are alike."""
    said: dict[str, list[str]] = {}
    for row in rows:
        versions = ", ".join(f"{name} {value}" for name, value in row.versions.items() if value)
        said.setdefault(f"{row.hardware or 'hardware not told'}; {versions}", []).append(row.source)
    return [f"{', '.join(dict.fromkeys(sources))}: {how}" for how, sources in said.items()]


def _markdown(tables: Sequence[Any], plots: Sequence[str], notes: Sequence[str]) -> str:
    parts = ["# Evaluation"]
    for title, columns, rows in tables:
        lines = [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]
        parts += [f"## {title}", "\n".join(lines)]
        if title == "Results":
            parts += [f"![accuracy against {AXES[axis]}](accuracy-{axis}.png)" for axis in plots]
    return "\n\n".join([*parts, "## Notes", "\n".join(f"* {note}" for note in notes)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _page(tables: Sequence[Any], plots: dict[str, bytes], notes: Sequence[str]) -> str:
    """One file that needs no other."""
    parts = [f'<!doctype html><meta charset="utf-8"><title>Evaluation</title><style>{STYLE}</style><h1>Evaluation</h1>']
    for title, columns, rows in tables:
        body = "".join(_row_of("td", row) for row in rows)
        parts.append(f"<h2>{title}</h2><div><table>{_row_of('th', columns)}{body}</table></div>")
        if title == "Results":
            for axis, picture in plots.items():
                data = base64.b64encode(picture).decode()
                parts.append(f'<p><img alt="accuracy against {AXES[axis]}" src="data:image/png;base64,{data}">')
    items = "".join(f"<li>{html.escape(note)}" for note in notes)
    return "\n".join([*parts, f"<h2>Notes</h2><ul>{items}</ul>"]) + "\n"


def _row_of(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def draw(rows: Sequence[Row], axis: str) -> bytes:
    """A PNG of accuracy against ``frames``, ``seconds`` or ``bytes``: a line per row, logarithmic where it spans much.

    Raises :class:`MissingDependencyError` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter
    except ImportError:
        raise MissingDependencyError("plots need matplotlib: pip install 'videoxl[eval]'") from None
    shown = [(row, drawn) for row in rows if (drawn := _xy(row, axis))]
    figure = Figure(figsize=(7.5, 4.2 + LEGEND_LINE * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = [x for _, drawn in shown for x, _ in drawn]
    names = Counter(_name(row) for row, _ in shown)
    for number, (row, drawn) in enumerate(shown):
        label = _name(row) + (f" ({row.source})" if names[_name(row)] > 1 else "")
        marker = "osD^vP*X"[number % 8]
        axes.plot(*zip(*drawn), marker=marker, color=f"C{number % 10}", label=label)
    if min(values) > 0 and max(values) > 8 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _name(row: Row) -> str:
    return f"{row.benchmark}: {row.model}, {row.prefill}, {row.decode}"


def _xy(row: Row, axis: str) -> list[tuple[float, float]]:
    scale = 1e-6 if axis == "bytes" else 1.0
    found = [(getattr(point, axis), 100 * point.accuracy) for point in row.points]
    return sorted((x * scale, y) for x, y in found if x is not None)


def _percent(share: float | None) -> str:
    return "n.a." if share is None else f"{100 * share:.1f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
