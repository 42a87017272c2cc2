"""What ``plan`` says against what a simulated H200 holds, for the released models of all sizes.

    python -m benchmarks.simulated_gpu_plan                      # all runs, into benchmarks/results
    python -m benchmarks.simulated_gpu_plan --frames 10000 --family video-xl
    python -m benchmarks.simulated_gpu_plan --table docs/notes/plan.md

What a card holds while a video is read is linear in the number of layers, so models with 2 and 4 layers are run, with
2 layers in the vision tower. What 28 layers hold follows, and the weights that were left out are added. Questions are
asked of all layers, but for keys, values or weights that are held smaller. ``--whole`` runs all layers for everything.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.simulated_gpu import ALL_LAYERS, FEW
from tests.simulated_gpu.plans import Held, Run, hold, hold_asking, planned
from tests.simulated_gpu.true_size import released_config

from videoxl.inference.plan.work import WeightSizes

RESULTS = Path(__file__).parent / "results" / "simulated_gpu_plan.json"
BEGIN, END = "<!-- table: python -m benchmarks.simulated_gpu_plan --table -->", "<!-- end of the table -->"
HEAD = "| family | frames | prefill | held smaller | phase | held, GB | plan, GB | difference |"
BOTH = ("dense", "bilevel:top_k=1")
LONG = ("dense", "bilevel")
QWEN = (256, 448)
"""Height and width of the film; the budget of pixels makes it smaller."""
RUNS = (
    Run("video-xl", "beacon:ratio=8", 256),
    Run("video-xl", "full", 256),
    Run("video-xl-pro", "selective", 256),
    Run("video-xl-pro", "full", 256),
    Run("video-xl-2", "full", 256, BOTH),
    Run("video-xl-2", "chunked", 256, BOTH),
    Run("video-xl-2", "chunked:vision_batch=6", 256, BOTH),
    Run("video-xl-2", "chunked:offload=true", 256, BOTH),
    Run("video-xl-2", "full", 256, BOTH, kv_dtype="int8"),
    Run("video-xl-2", "chunked", 256, BOTH, kv_dtype="int8"),
    Run("video-xl-2", "chunked", 256, BOTH, quantization="int8"),
    Run("video-xl-2", "chunked", 256, BOTH, quantization="nf4"),
    Run("video-xl-2", "chunked", 256, BOTH, quantization="torchao-int8"),
    Run("video-xl-2", "chunked", 2048, LONG),
    Run("video-xl-2", "full", 2048, LONG),
    Run("video-xl-2", "chunked:offload=true", 2048, LONG),
    Run("video-xl", "beacon:ratio=8", 2048),
    Run("video-xl-2", "chunked", 10_000, LONG),
    Run("video-xl-2", "full", 10_000, LONG),
    Run("video-xl", "beacon:ratio=8", 10_000),
    Run("qwen3-vl", "full", 768, LONG, size=QWEN),
    Run("qwen3-vl", "full", 2048, LONG, size=QWEN),
    Run("qwen3-vl", "full", 10_000, LONG, size=QWEN),
)
VISION_LAYERS = 2


def compare(run: Run, *, whole: bool) -> dict[str, dict[str, float]]:
    """Bytes held and planned, by phase."""
    config = released_config(run.family)
    layers = config.text.num_hidden_layers
    if whole:
        held = hold(run)
        peaks = held.peaks
    else:
        few, held = (hold(run, count, VISION_LAYERS) for count in FEW)
        peaks = of_all_layers(few, held, layers, WeightSizes.of(config).nbytes(2, run.quantization))
        if run.kv_dtype is None and run.quantization is None and "offload" not in run.prefill:
            peaks |= hold_asking(run, held)
    expected = planned(run, held, config, run.decodes)
    return {
        phase: {"held": peak, "plan": expected[phase], "difference": round(expected[phase] / peak - 1, 4)}
        for phase, peak in peaks.items()
    }


def of_all_layers(few: Held, more: Held, layers: int, weights: int) -> dict[str, int]:
    """Peaks of a model with ``layers`` layers and ``weights`` bytes of weights."""
    further = (layers - FEW[0]) // (FEW[1] - FEW[0])

    def line(small: int, large: int) -> int:
        return small + (large - small) * further

    missing = weights - line(few.weights, more.weights)
    return {phase: missing + line(peak, more.peaks[phase]) for phase, peak in few.peaks.items()}


def name_of(run: Run) -> str:
    smaller = [f"{key}={value}" for key in ("kv_dtype", "quantization") if (value := getattr(run, key))]
    return " ".join([run.family, run.prefill, str(run.frames), *smaller])


def write_table(results: Path, page: Path) -> None:
    """Put the table between the marks of ``page``."""
    found, text = json.loads(results.read_text()), page.read_text()
    head, rest = text.split(BEGIN)
    lines = ["", HEAD, "|" + "---|" * 8]
    for run in RUNS:
        smaller = ", ".join(f"`{key}={value}`" for key in ("kv_dtype", "quantization") if (value := getattr(run, key)))
        for phase, one in found.get(name_of(run), {}).get("phases", {}).items():
            title = phase if phase == "reading" else f"asking, `{phase}`"
            cells = [run.family, f"{run.frames:,}", f"`{run.prefill}`", smaller, title]
            cells += [f"{one['held'] / 1e9:.2f}", f"{one['plan'] / 1e9:.2f}", f"{one['difference']:+.1%}"]
            lines.append(f"| {' | '.join(cells)} |")
    page.write_text("\n".join([head + BEGIN, *lines, "", END + rest.split(END)[1]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, action="append", help="only runs of this length")
    parser.add_argument("--family", help="only runs of this family")
    parser.add_argument("--prefill", help="only runs with this prefill")
    parser.add_argument("--whole", action="store_true", help="run all layers")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, help="only write the table of this page, from the results")
    arguments = parser.parse_args()
    if arguments.table:
        write_table(arguments.output, arguments.table)
        return
    for run in RUNS:
        wanted = (arguments.frames is None or run.frames in arguments.frames) and (
            arguments.family in (None, run.family) and arguments.prefill in (None, run.prefill)
        )
        if not wanted:
            continue
        begin = time.perf_counter()
        phases = compare(run, whole=arguments.whole)
        found: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        found[name_of(run)] = {
            "phases": phases,
            "layers_run": [ALL_LAYERS] if arguments.whole else list(FEW),
            "took_seconds": round(time.perf_counter() - begin, 1),
        }
        print(name_of(run), json.dumps(found[name_of(run)]), flush=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
