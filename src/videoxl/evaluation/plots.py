"""Draw accuracy, the time to read and the bytes of a memory, each against the frames of a video. All begin at zero."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from videoxl.errors import MissingDependencyError
from videoxl.evaluation.metrics import wilson_interval
from videoxl.evaluation.rows import Point, Row
from videoxl.text import visible

PLOTS = {
    "accuracy": "accuracy, %, with 95 % intervals",
    "seconds": "seconds to read a video",
    "memory": "MB of keys and values",
}
"""What is drawn against frames, and the label of its axis."""
LEGEND_LINE = 0.19
"""Height of a line of the legend, in inches."""


class Drawn(NamedTuple):
    """A point of a line. ``low`` and ``high`` are the ends of its interval, if it has one."""

    frames: float
    value: float
    low: float
    high: float


def draw(rows: Sequence[Row], what: str) -> bytes:
    """Return a PNG with a line per row. ``what``: one of :data:`PLOTS`.

    Raises :class:`MissingDependencyError` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("plots need matplotlib: pip install 'videoxl[eval]'") from None
    lines = [(row, line) for row in rows if (line := line_of(row, what))]
    figure = Figure(figsize=(7.5, 4.2 + LEGEND_LINE * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = Counter(_name(row) for row, _ in lines)
    most = max(point.frames for _, line in lines for point in line)
    for number, (row, line) in enumerate(lines):
        label = _name(row) + (f" ({row.source})" if names[_name(row)] > 1 else "")
        apart = (
            (number - (len(lines) - 1) / 2) * 0.004 * most if what == "accuracy" else 0.0
        )  # intervals of equal lines
        axes.errorbar(
            [max(0.0, point.frames + apart) for point in line],
            [point.value for point in line],
            yerr=[[point.value - point.low for point in line], [point.high - point.value for point in line]],
            marker="osD^vP*X"[number % 8],
            color=f"C{number % 10}",
            capsize=2,
            elinewidth=0.8,
            markersize=4,
            label=_literal(label),
        )
    axes.set_xlim(0, 1.05 * most)
    axes.set_ylim(0, 102 if what == "accuracy" else 1.05 * max(point.value for _, line in lines for point in line) or 1)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("frames read of a video")
    axes.set_ylabel(PLOTS[what])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def line_of(row: Row, what: str) -> list[Drawn]:
    """Return the points of a row, in the order of frames. Points of which something is unknown are left out."""
    drawn = [_drawn(point, what) for point in row.points]
    return sorted(point for point in drawn if point is not None)


def _drawn(point: Point, what: str) -> Drawn | None:
    if point.frames is None:
        return None
    if what == "accuracy":
        low, high = _interval(point)
        return Drawn(point.frames, 100 * point.accuracy, 100 * low, 100 * high)
    cost = point.seconds if what == "seconds" else None if point.bytes is None else point.bytes / 1e6
    return None if cost is None else Drawn(point.frames, cost, cost, cost)


def _interval(point: Point) -> tuple[float, float]:
    """Wilson's of a share of questions; none of a mean of something else."""
    if not point.questions:
        return point.accuracy, point.accuracy
    low, high = wilson_interval(round(point.accuracy * point.questions), point.questions) or (0.0, 1.0)
    return min(low, point.accuracy), max(high, point.accuracy)


def _name(row: Row) -> str:
    return f"{row.benchmark}: {row.model}, {row.prefill}, {row.decode}"


def _literal(text: str) -> str:
    """Text as a label. matplotlib reads what stands between dollars as a formula, and draws no surrogates."""
    return visible(text, lines=False).replace("$", r"\$")
