"""A simulated day of a stream, as fast as it can be read: what is held, and what lies on the disk, stays within limits.

A source gives the frames of generated films with times of 24 hours, and is lost once an hour. Keys and values are
counted, resident memory and files are measured at the end of each segment. Limits are small, so that each form of what
is past (dense, pooled, vectors) is reached and removed within the day.

    python benchmarks/live_day.py -o benchmarks/results/live-day.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import videoxl
from videoxl.live.folder import Folder
from videoxl.live.settings import Alert, Retention, WatchSettings
from videoxl.live.watcher import Watcher
from videoxl.video.live.source import Gap, LiveFrame, StateChange
from videoxl.world import Renderer, sample_film

LOST_S = 45.0
"""The source is lost once an hour for so long."""


class SimulatedDay:
    """Frames of films, one after the other, with times that go on."""

    name, error = "simulated", None

    def __init__(self, seconds: float, step: float) -> None:
        self._seconds, self._step = seconds, step
        self._gaps: list[Gap] = []
        self._changes = [StateChange("live", 0.0)]
        self._frames = self._made()
        self.ended = False

    def _made(self) -> Iterator[LiveFrame]:
        source, at, hour = np.random.default_rng(1), 0.0, 1
        while at < self._seconds:
            for pixels in Renderer(sample_film(source, 16)).frames(48):
                yield LiveFrame(pixels, at)
                if at + self._step > 3600 * hour:
                    hour += 1
                    self._changes += [StateChange("lost", at, "killed"), StateChange("live", at + LOST_S)]
                    self._gaps.append(Gap(at, at + LOST_S, "lost"))
                    at += LOST_S
                at += self._step

    def take(self, most: int, seconds: float) -> list[LiveFrame]:
        found = []
        for frame in self._frames:
            if frame.seconds >= self._seconds:
                break
            found.append(frame)
            if len(found) == most:
                return found
        self.ended = True
        return found

    def changes(self) -> list[StateChange]:
        found, self._changes = self._changes, []
        return found

    def gaps(self) -> list[Gap]:
        found, self._gaps = self._gaps, []
        return found

    def close(self) -> None:
        pass


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(hours: float, step: float, most_bytes: int) -> dict[str, object]:
    """Watch the day, and give a row for each segment."""
    engine = videoxl.load("tiny", device="cpu")
    settings = WatchSettings(
        segment_s=900.0,
        stretch=15,
        alerts=(Alert(question="Is there a red star?"),),
        retention=Retention(dense_s=7200.0, pooled_s=6 * 3600.0, vectors_s=12 * 3600.0, bytes=most_bytes),
    )
    rows, counts, begun = [], {"alert": 0, "gap": 0, "segment": 0}, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="videoxl-day-") as root:
        folder = Folder(
            Path(root) / "day", stream="simulated", shown="simulated", model=engine.fingerprint, now=time.time()
        )
        watcher = Watcher(engine, SimulatedDay(hours * 3600, step), folder, settings)
        while watcher.step(0.0):
            for event in watcher.events():
                counts[event.kind] = counts.get(event.kind, 0) + 1
                if event.kind == "segment":
                    levels = [one.level for one in folder.segments]
                    row = {"hour": round(event.seconds / 3600, 3), "held_bytes": watcher.nbytes, "rss": resident()}
                    print(row, flush=True)
                    rows.append({**row, "disk": folder.nbytes, **{one: levels.count(one) for one in set(levels)}})
        answer = watcher.ask("Is there a red star?", about="all")
        watcher.close()
    half = len(rows) // 2
    summary = {
        name: {
            "first_half": max(row[name] for row in rows[4:half]),
            "second_half": max(row[name] for row in rows[half:]),
        }
        for name in ("held_bytes", "rss", "disk")
    }
    return {
        "hours": hours,
        "seconds_a_frame": step,
        "frames": watcher.frames,
        "took_s": round(time.perf_counter() - begun, 1),
        "limit_bytes": most_bytes,
        "events": counts,
        "largest": summary,
        "last_answer": {"read": len(answer.read), "unread": len(answer.unread)},
        "segments": rows,
    }


def main() -> None:
    """Print the summary, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--step", type=float, default=4.0, help="seconds from one frame to the next")
    parser.add_argument("--megabytes", type=float, default=40.0, help="limit of all files")
    parser.add_argument("-o", "--output")
    given = parser.parse_args()
    found = measured(given.hours, given.step, int(given.megabytes * 1e6))
    found["machine"] = {"cpu": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    found["videoxl"] = videoxl.__version__
    if given.output:
        Path(given.output).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "segments"}, indent=1))


if __name__ == "__main__":
    main()
