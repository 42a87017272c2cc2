"""Draw accuracy against what it took: frames, seconds or bytes."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

from videoxl.errors import MissingDependencyError
from videoxl.evaluation.rows import Point, Row
from videoxl.text import visible

AXES = {
    "frames": "frames read",
    "seconds": "seconds to read a video",
    "bytes": "MB of keys and values",
}
"""The axes that accuracy can be drawn against, and their labels."""
LEGEND_LINE = 0.19
"""Height of a line of the legend, in inches."""


def draw(rows: Sequence[Row], axis: str) -> bytes:
    """Return a PNG with a line per row. ``axis``: one of :data:`AXES`, logarithmic if it spans much.

    Raises :class:`MissingDependencyError` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter
    except ImportError:
        raise MissingDependencyError("plots need matplotlib: pip install 'videoxl[eval]'") from None
    lines = [(row, line) for row in rows if (line := line_of(row, axis))]
    figure = Figure(figsize=(7.5, 4.2 + LEGEND_LINE * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = [x for _, line in lines for x, _ in line]
    names = Counter(_name(row) for row, _ in lines)
    for number, (row, line) in enumerate(lines):
        label = _name(row) + (f" ({row.source})" if names[_name(row)] > 1 else "")
        marker = "osD^vP*X"[number % 8]
        axes.plot(*zip(*line), marker=marker, color=f"C{number % 10}", label=_literal(label))
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


def line_of(row: Row, axis: str) -> list[tuple[float, float]]:
    """Return the points of a row as (cost, accuracy in percent). Points whose cost is unknown are left out."""
    costs = [(_cost(point, axis), 100 * point.accuracy) for point in row.points]
    return sorted((cost, accuracy) for cost, accuracy in costs if cost is not None)


def _cost(point: Point, axis: str) -> float | None:
    if axis == "bytes":
        return None if point.bytes is None else point.bytes / 1e6
    return point.frames if axis == "frames" else point.seconds


def _name(row: Row) -> str:
    return f"{row.benchmark}: {row.model}, {row.prefill}, {row.decode}"


def _literal(text: str) -> str:
    """Text as a label. matplotlib reads what stands between dollars as a formula, and draws no surrogates."""
    return visible(text, lines=False).replace("$", r"\$")
