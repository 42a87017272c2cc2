"""Memory of this process and of the decoder process while 1, 10 and 60 minutes of 1080p are read at 1 fps.

    python benchmarks/host_memory.py --json benchmarks/results/host_memory.json

One minute is encoded, longer videos repeat its packets with later times. Every length runs in a fresh process.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MINUTES = (1, 10, 60)
MOST_MB = 1500
FPS, WIDTH, HEIGHT, SIZE = 30, 1920, 1080, 384


def encode_minute(path: Path) -> None:
    """A minute of a pattern moving sideways, a key frame every second."""
    texture = np.random.default_rng(0).integers(16, 235, (HEIGHT // 8, WIDTH // 8 + FPS * 60), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "g": "30", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(60 * FPS):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
            luma = np.kron(texture[:, i : i + WIDTH // 8], np.ones((8, 8), np.uint8))
            frame.planes[0].update(np.ascontiguousarray(luma))
            for plane in list(frame.planes)[1:]:
                plane.update(bytes([128]) * plane.buffer_size)
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def repeat(minute: Path, target: Path, times: int) -> None:
    """Write the packets of ``minute`` again and again, each time a minute later."""
    with av.open(str(target), "w") as outside, av.open(str(minute)) as first:
        copy = outside.add_stream_from_template(first.streams.video[0])
        for turn in range(times):
            with av.open(str(minute)) as inside:
                for packet in inside.demux(video=0):
                    if packet.size:
                        shift = round(turn * 60 / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = copy
                        outside.mux(packet)


def read(path: str) -> dict:
    """Read at 1 fps as a consumer that keeps nothing; sample both processes ten times a second."""
    import psutil

    from videoxl.config import Sampling
    from videoxl.video import Resize, open_video

    peaks = {"parent": 0, "worker": 0}
    stop = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not stop.wait(0.1):
            peaks["parent"] = max(peaks["parent"], me.memory_info().rss)
            for child in me.children():
                peaks["worker"] = max(peaks["worker"], child.memory_info().rss)

    before = psutil.Process().memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    start, frames = time.perf_counter(), 0
    with open_video(path) as source:
        for batch in source.read(source.select(Sampling(max_frames=10**6)), resize=Resize(SIZE, SIZE)):
            frames += len(batch)
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    megabytes = {f"peak_{name}_mb": value / 2**20 for name, value in peaks.items()}
    return {"frames": frames, "seconds": seconds, "parent_before_mb": before / 2**20, **megabytes}


def measure(path: Path) -> dict:
    """:func:`read` in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--read", path], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=int, nargs="+", default=MINUTES)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        minute = Path(folder) / "minute.mp4"
        encode_minute(minute)
        for minutes in arguments.minutes:
            video = Path(folder) / f"{minutes}.mp4"
            repeat(minute, video, minutes)
            results[str(minutes)] = measure(video)
            video.unlink()
            shown = {k: round(v, 1) for k, v in results[str(minutes)].items()}
            print(f"{minutes} min: {shown}")
    shortest, longest = results[str(min(arguments.minutes))], results[str(max(arguments.minutes))]
    growth = {k: longest[f"peak_{k}_mb"] / shortest[f"peak_{k}_mb"] for k in ("parent", "worker")}
    print(f"longest / shortest: parent {growth['parent']:.2f}, worker {growth['worker']:.2f}")
    document = {
        "benchmark": "host_memory",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "versions": {"python": platform.python_version(), "av": av.__version__, "numpy": np.__version__},
        "video": f"{WIDTH}x{HEIGHT} at {FPS} fps, H.264, key frame every second, read at 1 fps to {SIZE}x{SIZE}",
        "target_mb": MOST_MB,
        "results_by_minutes": results,
        "longest_over_shortest": growth,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
