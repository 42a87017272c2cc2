"""A source that is killed twenty times in mid-stream: nothing is lost but the gaps, and the gaps are on the time axis.

Each picture of the film shows its number as bars, black or white. A process sends it in real time over TCP on
loopback as MPEG-TS, is killed with SIGKILL, and begun again some time later at the picture that is due then. What was
received is compared with what was sent: frame by frame, at a second where the axis says it was.

    python benchmarks/live_kills.py -o benchmarks/results/live-kills.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from videoxl import __version__
from videoxl.video.live.feeds import Patience
from videoxl.video.live.source import LiveSource

RATE, SIDE, BITS = 8, 128, 14
SERVER = """
import socket, sys, time, av
path, port, begin, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
class Sink:
    def __init__(self, link): self.link = link
    def write(self, data): self.link.sendall(data); return len(data)
server = socket.create_server(("127.0.0.1", port), reuse_port=False)
link, _ = server.accept()
with av.open(path) as film, av.open(Sink(link), "w", format="mpegts") as out:
    source = film.streams.video[0]
    copy = out.add_stream_from_template(source)
    first = None
    for packet in film.demux(source):
        if packet.dts is None: continue
        due = begin + float(packet.pts * packet.time_base)
        if first is None:
            if due < time.time() or not packet.is_keyframe: continue
            first = due
        time.sleep(max(0.0, due - time.time()))
        packet.stream = copy
        out.mux(packet)
"""


def picture(number: int) -> np.ndarray:
    """A picture that shows its number in bars."""
    bars = [235 if number >> bit & 1 else 20 for bit in range(BITS)]
    columns = np.repeat(np.array(bars, np.uint8), SIDE // BITS)
    row = np.pad(columns, (0, SIDE - len(columns)))
    return np.repeat(np.repeat(row[None, :, None], SIDE, 0), 3, 2)


def number_of(pixels_HWC: np.ndarray) -> int:
    """The number that a picture shows."""
    width = SIDE // BITS
    middles = pixels_HWC[SIDE // 2, width // 2 : BITS * width : width, 1]
    return sum(int(value > 128) << bit for bit, value in enumerate(middles))


def write(path: Path, seconds: int) -> None:
    """A film with a key picture every second."""
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=RATE)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.gop_size = "yuv420p", RATE
        stream.options = {"bf": "0", "preset": "ultrafast", "tune": "zerolatency"}
        for number in range(seconds * RATE):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        made.mux(stream.encode())


def run(kills: int) -> dict[str, object]:
    """Kill the source so often, and compare."""
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="videoxl-kills-") as root:
        film = Path(root) / "film.mp4"
        write(film, 8 * kills + 60)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        begin = time.time() + 2.0

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, "-c", SERVER, str(film), str(port), str(begin), str(RATE)])

        process = start()
        patience = Patience(first_pause_s=0.1, longest_pause_s=0.5, wait_s=30.0)
        source = LiveSource(f"tcp://127.0.0.1:{port}", fps=float(RATE), patience=patience)
        frames, gaps, states = [], [], Counter[str]()

        def take(seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                frames.extend((frame.seconds, number_of(frame.pixels_HWC)) for frame in source.take(64, 0.1))
                gaps.extend(source.gaps())
                states.update(change.state for change in source.changes())

        take(4.0)
        for _ in range(kills):
            take(chance.uniform(1.5, 3.5))
            process.send_signal(signal.SIGKILL)
            process.wait()
            take(chance.uniform(0.2, 2.0))
            process, before = start(), states["live"]
            take(2.5)
            while states["live"] == before:  # on a busy machine
                take(0.2)
        take(2.0)
        process.kill()
        process.wait()
        take(0.5)
        source.close()
    return compared(frames, [gap for gap in gaps if gap.reason == "lost"], states, source.mended, kills)


def compared(frames: list, gaps: list, states: Counter[str], mended: int, kills: int) -> dict[str, object]:
    """What was received against what was sent."""
    numbers = [number for _, number in frames]
    zero = frames[0][0] - numbers[0] / RATE
    off = [at - number / RATE - zero for at, number in frames]
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
    inside = [n for n in missing if any(gap.start < n / RATE + zero < gap.end + 1e-6 for gap in gaps)]
    return {
        "kills": kills,
        "frames": len(frames),
        "twice": len(numbers) - len(set(numbers)),
        "out_of_order": sum(b < a for a, b in pairwise(numbers)),
        "missing": len(missing),
        "missing_outside_gaps": len(missing) - len(inside),
        "gaps": len(gaps),
        "gap_seconds": round(sum(gap.end - gap.start for gap in gaps), 2),
        "furthest_from_its_second": round(max(map(abs, off)), 4),
        "clock_mended": mended,
        "states": dict(states),
    }


def main() -> None:
    """Print what was found, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("-o", "--output")
    given = parser.parse_args()
    found = run(given.kills)
    found |= {"machine": {"cpu": platform.machine(), "python": platform.python_version()}, "videoxl": __version__}
    if given.output:
        Path(given.output).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
