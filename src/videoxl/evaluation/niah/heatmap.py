"""Draw accuracy by length and depth as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from videoxl.errors import MissingDependencyError
from videoxl.evaluation.log import Json, write_bytes
from videoxl.evaluation.niah.summary import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MAX_ANNOTATED = 16
"""With more lengths than this, cells have no numbers written in."""


def require_matplotlib() -> None:
    """Raise :class:`MissingDependencyError` where it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "heat maps are drawn by matplotlib, which is not installed: pip install 'videoxl[eval]', or leave the "
            "picture out (--no-heatmap)"
        ) from None


def draw_heatmap(result: Json, path: str | Path) -> None:
    """Draw the cells of a result, or of each of its selectors side by side, to a PNG file."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grids = result.get("ways", {"": result})
    cells = [cell for found in grids.values() for cell in found["cells"]]
    lengths, depths = (sorted({cell[name] for cell in cells}) for name in ("frames", "depth"))
    width = max(3.6, 0.75 * len(lengths) + 1.2)
    figure = Figure(figsize=(width * len(grids) + 1.2, max(3.0, 0.5 * len(depths) + 2.0)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(grids), squeeze=False, sharey=True)[0]
    for axis, (selector, found) in zip(axes, grids.items()):
        drawn = _draw(axis, found["cells"], lengths, depths)
        axis.set_title(f"{selector} {percent(found['accuracy'])}".strip(), fontsize=10)
    axes[0].set_ylabel("depth of the needle")
    figure.colorbar(drawn, ax=list(axes), label="accuracy", fraction=0.15 / len(grids), pad=0.02)
    figure.suptitle(_title(result), fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _draw(axis: Axes, cells: Sequence[Json], lengths: list[int], depths: list[float]) -> AxesImage:
    shares = np.full((len(depths), len(lengths)), np.nan)
    for cell in cells:
        shares[depths.index(cell["depth"]), lengths.index(cell["frames"])] = cell["accuracy"]
    axis.set_facecolor("0.8")  # what could not be measured
    drawn = axis.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], rotation=45 if len(lengths) > 6 else 0)
    axis.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths])
    axis.set_xlabel("frames")
    if len(lengths) <= MAX_ANNOTATED:
        for (row, column), share in np.ndenumerate(shares):
            label = "n.a." if np.isnan(share) else f"{100 * share:.0f}"
            color = "black" if np.isnan(share) or share > 0.6 else "white"
            axis.text(column, row, label, ha="center", va="center", color=color, fontsize=9)
    return drawn


def _title(result: Json) -> str:
    run = result["run"]
    needles = "picture" if run["pictures"] else "generated"
    hay = "a film" if run["haystack"] else "the generated world"
    return (
        f"{run['model']}, prefill {run['prefill']}, decode {run['decode']}\n"
        f"{needles} needles in {hay}, {run['needles']} each, seed {run['seed']}\n"
        f"chance {percent(result['chance'])}, no video {percent(result['no_video']['accuracy'])}"
    )
