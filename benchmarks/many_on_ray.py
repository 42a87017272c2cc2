"""Many videos on Ray: an actor is killed, then the driver, then a file is damaged; only what is missing is done again.

    python benchmarks/many_on_ray.py --json benchmarks/results/many_on_ray-cpu2.json

Films of the generated world are read by ``videoxl encode-many --ray --resume`` with ``tiny``:

1. An actor is killed with SIGKILL after the first rows. The run must end well, with every film once.
2. In a new folder the driver is killed with SIGKILL after some rows, and one of the files that are there is damaged by
   one bit. The next run must write the damaged file and those that were missing, and no other: inode and time of
   every file are compared.
3. The films are read without Ray too. Headers hold timings, so that answers from both folders are compared, not bytes.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import ray

import videoxl
from videoxl.many.places import is_whole
from videoxl.world import write_world

QUESTION = "What is shown first?"


def command(films: Path, output: Path, *more: str) -> list[str]:
    base = [sys.executable, "-m", "videoxl", "encode-many", str(films), "-o", str(output), "--resume", "-q"]
    return [*base, "-m", "tiny", "--device", "cpu", *more]


def rows_of(output: Path) -> list[dict[str, Any]]:
    path = output / "memories.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def actors() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("MapWorker" in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


def run_until(
    arguments: list[str], reached: Callable[[], bool], then: Callable[[subprocess.Popen[bytes]], None]
) -> int:
    """Run a command, do something once, and wait for the end. Returns the exit status."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    while process.poll() is None and not reached():
        time.sleep(0.01)
    if process.poll() is not None:
        raise SystemExit(f"the run ended before anything was killed, with {process.returncode}")
    then(process)
    return process.wait()


def kill_actor(films: Path, output: Path, wanted: int) -> dict[str, Any]:
    killed = []

    def kill(driver: subprocess.Popen[bytes]) -> None:
        victim = actors()[0]
        killed.append(len(rows_of(output)))
        victim.send_signal(signal.SIGKILL)

    begin = time.perf_counter()
    status = run_until(command(films, output, "--ray", "--actors", "2"), lambda: len(rows_of(output)) >= wanted, kill)
    rows = rows_of(output)
    return {
        "killed_at_rows": killed[0],
        "exit_status": status,
        "rows": len(rows),
        "every_film_once": max(Counter(row["video"] for row in rows).values()) == 1,
        "whole": sum(is_whole(row["memory"], row["file_bytes"]) for row in rows),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def stamp(output: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.glob("*.vxl")}


def kill_driver(films: Path, output: Path, count: int, wanted: int) -> dict[str, Any]:
    arguments = command(films, output, "--ray", "--actors", "2")
    run_until(arguments, lambda: len(rows_of(output)) >= wanted, lambda driver: driver.kill())
    began = time.monotonic()
    while actors() and time.monotonic() - began < 60:  # its cluster ends by itself
        time.sleep(0.1)
    cluster_seconds, left = time.monotonic() - began, len(actors())
    before, rows = stamp(output), len(rows_of(output))
    damaged = sorted(before)[0]
    content = bytearray((output / damaged).read_bytes())
    content[-100] ^= 1
    (output / damaged).write_bytes(bytes(content))
    before = stamp(output)
    begin = time.perf_counter()
    done = subprocess.run(arguments, stdout=subprocess.DEVNULL, check=False)
    after = stamp(output)
    again = sorted(name for name in after if before.get(name) != after[name])
    missing = sorted({damaged, *(after.keys() - before.keys())})
    found = rows_of(output)
    return {
        "killed_at_rows": rows,
        "files_when_killed": len(before),
        "actors_left_after_the_driver": left,
        "seconds_until_they_ended": round(cluster_seconds, 1),
        "exit_status": done.returncode,
        "written_by_the_second_run": len(again),
        "exactly_what_was_missing_or_damaged": again == missing,
        "rows": len(found),
        "every_film_once": len({row["video"] for row in found}) == len(found) == count,
        "whole": sum(is_whole(row["memory"], row["file_bytes"]) for row in found),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def same_answers(one: Path, other: Path) -> int:
    engine = videoxl.load("tiny", device="cpu")
    told = [
        {Path(row.video).name: row.answer for row in videoxl.answer_many(folder, QUESTION, model=engine)}
        for folder in (one, other)
    ]
    return sum(told[0][name] == told[1][name] for name in told[0])


def without_ray(films: Path, one: Path, other: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    subprocess.run(command(films, other), stdout=subprocess.DEVNULL, check=True)
    seconds = round(time.perf_counter() - begin, 1)
    return {"seconds": seconds, "same_answers": same_answers(one, other)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=10)
    parser.add_argument("--kill-at", type=int, default=2, help="rows that are there when something is killed")
    parser.add_argument("--parts", nargs="+", choices=("actor", "driver"), default=["actor", "driver"])
    parser.add_argument("--json", type=Path, help="is completed, where only a part is run")
    given = parser.parse_args()
    result: dict[str, Any] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    versions = {"videoxl": videoxl.__version__, "ray": ray.__version__, "python": platform.python_version()}
    result |= {"what": "many videos on Ray", "versions": versions, "films": given.films}
    with tempfile.TemporaryDirectory(prefix="videoxl-ray-") as scratch:
        folder = Path(scratch)
        write_world(folder, given.films, groups=(6, 10), questions=1, size=128, seed=30)
        films = folder / "videos"
        if "actor" in given.parts:
            result["actor_killed"] = kill_actor(films, folder / "one", given.kill_at)
            result["without_ray"] = without_ray(films, folder / "one", folder / "three")
        if "driver" in given.parts:
            result["driver_killed"] = kill_driver(films, folder / "two", given.films, given.kill_at)
    print(json.dumps(result, indent=1), flush=True)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
