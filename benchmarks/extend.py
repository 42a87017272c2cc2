"""What extending a memory by a few frames costs when it is short and when it is long, also against other code.

    python benchmarks/extend.py --against ../before/src --json benchmarks/results/extend-cpu2.json

The embedded model reads frames of noise and is extended by 16 more, again and again, on one thread. Each round runs a
process of its own for either code, in turn; a number is the least of a round's medians, in milliseconds of processor
time. What remains to grow with length is attention over what was read before.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

FRAMES = (256, 1024, 2048)
NEW = 16
HERE = Path(__file__).resolve().parent.parent / "src"


def measure(prefill: str, frames: int, repeats: int) -> float:
    """Median processor seconds of an extension, in milliseconds."""
    import numpy as np
    import torch

    import videoxl

    torch.set_num_threads(1)
    model = videoxl.load("tiny", device="cpu")
    side, total = model.config.image_size, frames + NEW * (repeats + 1)
    pixels = np.random.default_rng(0).integers(0, 256, (total, side, side, 3), dtype=np.uint8)
    memory = model.encode(frames=pixels[:frames], fps=1, max_frames=frames, prefill=prefill)
    taken = []
    for first in range(frames, total, NEW):
        begin = time.process_time()
        memory.extend(pixels[first : first + NEW], fps=1)
        taken.append(1e3 * (time.process_time() - begin))
    return statistics.median(taken[1:])  # the first may move the cache to a larger buffer


def run(source: Path, prefill: str, frames: int, repeats: int) -> float:
    """:func:`measure` with the package in ``source``, in a process of its own."""
    worker = [sys.executable, __file__, "--worker", prefill, str(frames), str(repeats)]
    environment = {**os.environ, "PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(worker, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        print(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="a src folder of other code")
    parser.add_argument("--frames", type=int, nargs="+", default=list(FRAMES))
    parser.add_argument("--prefill", nargs="+", default=["full", "chunked"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=12, help="extensions per process")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    sources = {"now": HERE, **({"before": arguments.against} if arguments.against else {})}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for prefill in arguments.prefill:
        for frames in arguments.frames:
            rounds = [
                {name: run(source, prefill, frames, arguments.repeats) for name, source in sources.items()}
                for _ in range(arguments.rounds)
            ]
            row = {name: round(min(each[name] for each in rounds), 1) for name in sources}
            if "before" in row:
                row["times_as_fast"] = round(row["before"] / row["now"], 2)
            found.setdefault(prefill, {})[str(frames)] = row
            print(prefill, frames, row, flush=True)
    document = {
        "benchmark": "extend",
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()}-core {platform.machine()}",
        "model": "tiny",
        "new_frames": NEW,
        "unit": "milliseconds of processor time, one thread",
        "rounds": arguments.rounds,
        "results": found,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
