"""Run all parts, or some, and write what they found after each: ``script/gpu``, or ``python -m benchmarks.gpu``."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu import asking, machine, parity, reading
from benchmarks.gpu.measure import clear
from benchmarks.gpu.plot import draw
from benchmarks.gpu.sizes import SHORT, TRUE, Sizes
from benchmarks.gpu.trace import trace

RESULTS = Path(__file__).resolve().parents[1] / "results"
WHOLE_SECONDS = 500.0
"""For all parts. With start and imports a run stays under nine minutes."""


@dataclass(frozen=True)
class Part:
    """One piece of a run."""

    name: str
    budget: float
    """Seconds after which it is given up."""
    run: Callable[[Sizes], dict[str, Any]]
    valued: bool = False
    """Whether floats must have values also where the device is simulated."""


PARTS = (
    Part("parity", 60, lambda sizes: parity.parity(), valued=True),
    Part("S1 prefill", 90, reading.s1_prefill),
    Part("S2 vision", 40, reading.s2_vision),
    Part("S6 second question", 40, asking.s6_second_question),
    Part("S5 decoding", 70, asking.s5_decoding),
    Part("S3 chunk attention", 40, reading.s3_attention),
    Part("S8 memory", 50, reading.s8_memory),
    Part("S4 Video-XL", 80, reading.s4_beacons),
    Part("sweep", 70, reading.sweep),
    Part("loading", 50, asking.loading),
    Part("S7 long clip", 130, reading.s7_long),
)


class OutOfTimeError(Exception):
    """A part took longer than it may."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTimeError` in the block after so many seconds."""

    def stop(*_: Any) -> None:
        raise OutOfTimeError(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_part(part: Part, sizes: Sizes, *, simulated: bool, left: float) -> dict[str, Any]:
    """What a part found; or ``error``, with where it happened."""
    begin = time.perf_counter()
    if left < 5:
        return {"error": "left out: no time was left"}
    try:
        with at_most(min(part.budget, left)), machine.device(simulated=simulated, valued=part.valued):
            found = part.run(sizes)
    except Exception as error:  # noqa: BLE001  one part that fails must not lose the others; it is in the result
        where = traceback.extract_tb(error.__traceback__)
        places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in where[-6:]]
        found = {"error": f"{type(error).__name__}: {error}"[:600], "at": places}
        del error
    if not simulated:
        clear()
    return {**found, "took_seconds": round(time.perf_counter() - begin, 1)}


def line(part: str, found: dict[str, Any]) -> str:
    """What a person watching wants to know."""
    if "error" in found:
        return f"{part}: FAILED, {found['error']}"
    names = ("passed", "times_as_fast", "share_of_baseline", "reached")
    said = [f"{name} {found[name]}" for name in names if name in found]
    if "seconds" in found.get("ours", {}):
        said.insert(0, f"{found['ours']['seconds']:.3f} s")
    return f"{part}: {', '.join(said) or 'done'} ({found['took_seconds']:.0f} s)"


@torch.no_grad()
def run(parts: tuple[Part, ...], folder: Path, *, simulated: bool) -> dict[str, Any]:
    """Run the parts in their order; results are written after every one."""
    sizes, begin = (SHORT if simulated else TRUE), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine.facts(simulated=simulated), "parts": {}}
    traced = Part("trace", 40, lambda sizes: trace(sizes, folder / "trace.json.gz"))
    for part in (*parts, traced):
        left = WHOLE_SECONDS - (time.perf_counter() - begin)
        found = result["parts"][part.name] = run_part(part, sizes, simulated=simulated, left=left)
        if part.name == "sweep" and "error" not in found:
            gpu = "simulated H200" if simulated else torch.cuda.get_device_name(0)
            found["plot"] = draw(found, gpu, folder / "length.svg") or "length.svg"
        result["seconds"] = round(time.perf_counter() - begin, 1)
        (folder / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
        print(line(part.name, found), flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--simulated", action="store_true", help="shortened, on the simulated device")
    parser.add_argument("--part", action="append", help="only parts whose names hold this, such as S1; repeatable")
    parser.add_argument("--output", type=Path, help="default benchmarks/results/gpu-NAME, or runs/gpu-simulated")
    arguments = parser.parse_args()
    if not arguments.simulated and not torch.cuda.is_available():
        print("script/gpu: torch finds no GPU here; --simulated runs shortened without one", file=sys.stderr)
        return 2
    name = "simulated" if arguments.simulated else torch.cuda.get_device_name(0)
    into = Path("runs") if arguments.simulated else RESULTS  # counts of a shortened run are no results
    folder = arguments.output or into / f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}"
    wanted = arguments.part or [""]
    parts = tuple(part for part in PARTS if any(one.lower() in part.name.lower() for one in wanted))
    result = run(parts, folder, simulated=arguments.simulated)
    failed = [name for name, found in result["parts"].items() if "error" in found]
    wrong = result["parts"].get("parity", {}).get("passed") is False
    print(f"{folder / 'gpu.json'}: {len(failed)} parts failed, parity {'FAILED' if wrong else 'as far as run'}")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
