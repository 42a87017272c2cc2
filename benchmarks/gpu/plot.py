"""Time and memory against the length of the video."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(sweep: dict[str, Any], gpu: str, output: Path) -> str | None:
    """Write an SVG. Returns why not, where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return "matplotlib is not installed"
    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for prefill in ("chunked", "full"):
        found = sweep.get(prefill, {})
        frames = [int(count) for count in found]
        axes[0].plot(frames, [one["seconds"] for one in found.values()], marker="o", label=prefill)
        axes[1].plot(frames, [one["peak_gb"] for one in found.values()], marker="o", label=prefill)
    for axis, what in zip(axes, ("seconds to the memory", "peak, GB")):
        axis.set(xlabel="frames", ylabel=what, xscale="log", ylim=(0, None))
        axis.legend(frameon=False)
    figure.suptitle(f"Video-XL-2, random weights, bf16, {gpu}")
    figure.savefig(output)
    pyplot.close(figure)
    return None
