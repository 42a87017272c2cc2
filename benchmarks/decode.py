"""Time to frames of 384x384: this package against what people use instead, side by side in one run.

    pip install -e '.[benchmark]'
    python benchmarks/decode.py --json benchmarks/results/decode.json

The video is generated: one minute of 1080p at 30 fps, H.264 with B-frames and a key frame every 250 frames, moving
textured content. Every method's first and last frame are checked to be the right ones.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = 384
RULES = {"1 fps": {"fps": 1.0}, "256 uniform": {"num_frames": 256}}
TARGETS = {"opencv": 3.0, "sequential": 0.8}


def generate(path: Path, seconds: int, width: int = 1920, height: int = 1080, fps: int = 30) -> None:
    """Textures that slide over each other in different directions, with a little grain."""
    random = np.random.default_rng(0)
    coarse = random.integers(16, 240, (height // 24 + 40, width // 24 + 40), np.uint8)
    texture = np.kron(coarse, np.ones((24, 24), np.uint8))
    texture = (texture + np.roll(texture, (7, 11), (0, 1)).astype(np.uint16)).astype(np.uint16) // 2
    grain = random.integers(0, 6, (height, width), np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(seconds * fps):
            x, y = (i * 3) % 700, (i * 2) % 500
            luma = (texture[y : y + height, x : x + width] + np.roll(grain, i * 37, 1)).astype(np.uint8)
            half = height // 2
            luma[half:] = texture[half : 2 * half, 700 - x : 700 - x + width].astype(np.uint8)
            frame = av.VideoFrame(width, height, "yuv420p")
            frame.planes[0].update(np.ascontiguousarray(luma))
            for k, plane in enumerate(list(frame.planes)[1:]):
                plane.update(bytes([110 + 20 * k + i % 16]) * plane.buffer_size)
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def ours(path: Path, rule: dict) -> tuple[np.ndarray, list[int]]:
    from videoxl.config import Sampling
    from videoxl.video import Resize, open_video

    with open_video(path) as source:
        selection = source.select(Sampling(**rule))
        batches = list(source.read(selection, resize=Resize(SIZE, SIZE)))
    return np.concatenate([b.pixels_FHWC for b in batches]), selection.indices_F.tolist()


def opencv(path: Path, indices: list[int]) -> np.ndarray:
    import cv2
    from transformers import SiglipImageProcessor

    processor = SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
    capture = cv2.VideoCapture(str(path))
    pictures = []
    for index in indices:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        pictures.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return np.asarray(processor(pictures, return_tensors="np")["pixel_values"])


def sequential(path: Path) -> int:
    """Decode every frame and throw it away: no colour conversion, no resizing."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def timed(work: Callable) -> tuple[float, float, object]:
    """(wall seconds, processor seconds with child processes, result)."""

    def cpu() -> float:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in usage)

    cpu_start, start = cpu(), time.perf_counter()
    result = work()
    return time.perf_counter() - start, cpu() - cpu_start, result


def measure(path: Path, rule: dict, repeats: int) -> dict:
    """Interleaved repeats of all methods on one rule."""
    indices = ours(path, rule)[1]
    methods: dict[str, Callable] = {
        "videoxl": lambda: ours(path, rule)[0],
        "opencv": lambda: opencv(path, indices),
        "sequential": lambda: sequential(path),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, work in methods.items():
            wall, cpu, result = timed(work)
            runs[name].append((wall, cpu))
            if name != "sequential":
                assert len(result) == len(indices)
    medians = {
        name: {"wall_s": statistics.median(w for w, _ in r), "cpu_s": statistics.median(c for _, c in r)}
        for name, r in runs.items()
    }
    ratios = {
        f"{kind} {other}": medians[other][f"{kind}_s"] / medians["videoxl"][f"{kind}_s"]
        for other in TARGETS
        for kind in ("wall", "cpu")
    }
    return {"frames": len(indices), "median": medians, "runs": runs, "times_as_fast_as": ratios}


def versions() -> dict[str, str]:
    import cv2
    import PIL
    import transformers

    found = {"python": platform.python_version(), "av": av.__version__, "opencv": cv2.__version__}
    return {**found, "transformers": transformers.__version__, "pillow": PIL.__version__, "numpy": np.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="length of the generated video")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "generated.mp4"
        generate(video, arguments.seconds)
        size = video.stat().st_size
        opencv(video, [0])  # imports and caches are not what is measured
        results = {name: measure(video, rule, arguments.repeats) for name, rule in RULES.items()}
    document = {
        "benchmark": "decode",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "versions": versions(),
        "video": f"{arguments.seconds} s of 1920x1080 at 30 fps, H.264 veryfast, key frame every 250, {size} bytes",
        "output": f"{SIZE}x{SIZE} uint8",
        "targets_times_as_fast": TARGETS,
        "results": results,
    }
    for name, result in results.items():
        print(f"{name}: {result['frames']} frames")
        for method, m in result["median"].items():
            print(f"  {method:12} {m['wall_s']:6.2f} s wall {m['cpu_s']:6.2f} s cpu")
        for against, ratio in result["times_as_fast_as"].items():
            print(f"  {ratio:.2f} times as fast as {against}")
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
