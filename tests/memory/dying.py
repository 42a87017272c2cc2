"""A process whose children save a memory and die on the way. Run as a program; prints what came of it as JSON.

One process does it all: importing torch once more for every death would take minutes. It has a single thread, so that
it can fork.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

torch.set_num_threads(1)

from tests.memory.stored import encoded, read_all, same_states  # noqa: E402
from tests.model.random_tiny import tiny_engine  # noqa: E402
from videoxl.memory.video_memory import VideoMemory  # noqa: E402

CALLS = ("open", "pwrite", "fsync", "replace", "close")


def die_at(moment: float) -> None:
    """Kill this process at its ``moment``-th call to the system: before it, or, at a half, in the middle of a write."""
    left = [moment]

    def counted(name: str) -> Callable:
        real = getattr(os, name)

        def call(*arguments, **more):
            left[0] -= 1
            if left[0] < 0:
                if name == "pwrite" and left[0] == -0.5:
                    descriptor, data, offset = arguments
                    real(descriptor, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        return call

    for name in CALLS:
        setattr(os, name, counted(name))


def child(work: Callable[[], None]) -> int:
    """Exit status of ``work`` in a process of its own."""
    number = os.fork()
    if number == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return number


def wait(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def deaths(engine, path: Path, old: VideoMemory, new: VideoMemory) -> dict:
    """Saves of ``new`` over ``old`` that die at every moment there is."""
    found = {"moments": 0, "old": 0, "new": 0, "torn": 0, "leftovers": 0}
    moment = 0.0
    while True:
        old.save(path)  # also clears away what the last one left behind
        assert [p.name for p in path.parent.iterdir()] == [path.name]

        def work(moment: float = moment) -> None:
            die_at(moment)
            new.save(path)

        if wait(child(work)) == 0:
            return found
        memory = VideoMemory.load(path, engine)
        which = "old" if same_states(memory, old) else "new" if same_states(memory, new) else "torn"
        found[which] += 1
        found["leftovers"] += len(list(path.parent.iterdir())) - 1
        found["moments"] += 1
        moment += 0.5


def sudden_deaths(engine, path: Path, old: VideoMemory, new: VideoMemory, count: int) -> dict:
    """Processes that save one after the other, killed from outside."""
    found, draw = {"killed": 0, "torn": 0}, random.Random(0)
    old.save(path)

    def work() -> None:
        while True:
            new.save(path)
            old.save(path)

    for _ in range(count):
        number = child(work)
        time.sleep(draw.uniform(0.0, 0.1))
        os.kill(number, signal.SIGKILL)
        found["killed"] += wait(number) == -signal.SIGKILL
        memory = VideoMemory.load(path, engine)
        found["torn"] += not (same_states(memory, old) or same_states(memory, new))
    old.save(path)
    found["files"] = [p.name for p in path.parent.iterdir()]
    return found


def crowd(engine, path: Path, old: VideoMemory, new: VideoMemory, seconds: float) -> dict:
    """Two writers and two readers of one path."""
    old.save(path)
    end = time.monotonic() + seconds

    def write(memory: VideoMemory) -> None:
        while time.monotonic() < end:
            memory.save(path)

    def read() -> None:
        loads = 0
        while time.monotonic() < end or not loads:
            memory = VideoMemory.load(path, engine)
            read_all(memory)
            assert same_states(memory, old) or same_states(memory, new)
            loads += 1

    numbers = [child(lambda: write(old)), child(lambda: write(new)), child(read), child(read)]
    statuses = [wait(number) for number in numbers]
    return {"statuses": statuses, "files": [p.name for p in path.parent.iterdir()]}


def main(folder: Path) -> None:
    engine = tiny_engine()
    old, new = encoded(engine, 18), encoded(engine, 22, seed=1)
    path = folder / "film.vxl"
    found = {
        "deaths": deaths(engine, path, old, new),
        "sudden": sudden_deaths(engine, path, old, new, 12),
        "crowd": crowd(engine, path, old, new, 2.0),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
