"""Time to frames of 384x384: this package against what people use instead, by turns in one run.

    pip install -e '.[benchmark]'      # torchcodec also needs FFmpeg's libraries
    python benchmarks/decode.py --json benchmarks/results/decode.json

The video is generated: one minute of 1080p at 30 fps, H.264 with B-frames, one slice a picture and a key frame every
250 frames; moving textured content. Each method runs in a process of its own that may use one core, then two. Loading
libraries is not counted. Every method's first and last frame are checked to be the right ones.

opencv: seek to each frame, SigLIP's image processor. torchcodec, decord: all frames in one call, as many threads as
cores, torchvision's bicubic resizing. sequential: PyAV decodes every frame and throws it away.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = 384
SECONDS, FPS = 60, 30
RULES = {"1 fps": 60, "256 uniform": 256, "16 uniform": 16}
"""Name -> number of frames, spread evenly."""
TARGETS = {"opencv": 3.0, "sequential": 0.8}
CHECKED_PIXELS = 48
"""First and last frame are compared at this size."""
MOST_DIFFERENCE = 12.0
"""Mean difference, of 255, that resizing and colour conversion may make. A wrong frame differs by 25 and more."""
PACKAGES = ("av", "torchcodec", "decord", "opencv-python-headless", "torch", "torchvision", "transformers", "pillow")


def generate(path: Path, seconds: int, width: int = 1920, height: int = 1080, fps: int = FPS) -> None:
    """Textures that slide over each other in different directions, with a little grain."""
    random = np.random.default_rng(0)
    coarse = random.integers(16, 240, (height // 24 + 40, width // 24 + 40), np.uint8)
    texture = np.kron(coarse, np.ones((24, 24), np.uint8))
    texture = (texture + np.roll(texture, (7, 11), (0, 1)).astype(np.uint16)).astype(np.uint16) // 2
    grain = random.integers(0, 6, (height, width), np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23", "g": "250"})
        stream.codec_context.thread_type = "FRAME"  # x264 cuts pictures into slices for slice threads
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


Method = Callable[[Path, list[int]], np.ndarray | None]
"""Frames [F, H, W, 3] with these numbers."""


def videoxl(processes: int | str) -> Method:
    from videoxl.config import Sampling
    from videoxl.video import Resize, open_video

    def read(path: Path, numbers: list[int]) -> np.ndarray:
        with open_video(path, decoder_processes=processes) as source:
            selection = source.select(Sampling(indices=tuple(numbers)))
            return np.concatenate([b.pixels_FHWC for b in source.read(selection, resize=Resize(SIZE, SIZE))])

    return read


def opencv() -> Method:
    import cv2
    from transformers import SiglipImageProcessor

    processor = SiglipImageProcessor(size={"height": SIZE, "width": SIZE})

    def read(path: Path, numbers: list[int]) -> np.ndarray:
        capture = cv2.VideoCapture(str(path))
        pictures = []
        for number in numbers:
            capture.set(cv2.CAP_PROP_POS_FRAMES, number)
            pictures.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
        capture.release()
        pixels = np.asarray(processor(pictures, return_tensors="np")["pixel_values"])
        return (pixels.transpose(0, 2, 3, 1) + 1) * 127.5

    return read


def resized_in_batches(numbers: list[int], get: Callable[[list[int]], object]) -> np.ndarray:
    """A few frames at a time, so that large pictures do not fill the memory. ``get`` gives uint8 [F, 3, H, W]."""
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    parts = []
    for at in range(0, len(numbers), 16):
        small = resize(get(numbers[at : at + 16]), [SIZE, SIZE], InterpolationMode.BICUBIC, antialias=True)
        parts.append(small.permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def torchcodec() -> Method:
    from torchcodec.decoders import VideoDecoder

    def read(path: Path, numbers: list[int]) -> np.ndarray:
        decoder = VideoDecoder(str(path), num_ffmpeg_threads=len(os.sched_getaffinity(0)))
        return resized_in_batches(numbers, lambda some: decoder.get_frames_at(some).data)

    return read


def decord() -> Method:
    import torch
    from decord import VideoReader

    def read(path: Path, numbers: list[int]) -> np.ndarray:
        reader = VideoReader(str(path), num_threads=len(os.sched_getaffinity(0)))
        return resized_in_batches(
            numbers, lambda some: torch.from_numpy(reader.get_batch(some).asnumpy()).permute(0, 3, 1, 2)
        )

    return read


def sequential() -> Method:
    def read(path: Path, numbers: list[int]) -> None:
        with av.open(str(path)) as container:
            for _ in container.decode(video=0):
                pass

    return read


METHODS: dict[str, Callable[[], Method]] = {
    "videoxl": lambda: videoxl("auto"),
    "videoxl, one process": lambda: videoxl(1),
    "torchcodec": torchcodec,
    "decord": decord,
    "opencv": opencv,
    "sequential": sequential,
}


def run_one(method: str, path: Path, numbers: list[int]) -> None:
    """Print seconds, processor seconds before, and the first and the last frame in small, as JSON."""
    read = METHODS[method]()
    if method != "sequential":
        read(path, numbers[:1])  # what the first call loads is not what is measured
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    pixels = read(path, numbers)
    wall = time.perf_counter() - begin
    ends = [] if pixels is None else [thumbnail(pixels[0]), thumbnail(pixels[-1])]
    count = len(numbers) if pixels is None else len(pixels)
    print(json.dumps({"wall": wall, "cpu": before.ru_utime + before.ru_stime, "count": count, "ends": ends}))


def thumbnail(pixels_HWC: np.ndarray) -> list[float]:
    step = SIZE // CHECKED_PIXELS
    cells = pixels_HWC.astype(np.float64).reshape(CHECKED_PIXELS, step, CHECKED_PIXELS, step, 3)
    return cells.mean((1, 3, 4)).round(1).ravel().tolist()


def measure(method: str, path: Path, numbers: list[int], cores: int) -> dict:
    """Run one method in a process that may use so many cores."""
    command = [sys.executable, __file__, "--run", method, str(path), json.dumps(numbers)]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, preexec_fn=lambda: os.sched_setaffinity(0, allowed)
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["count"] == len(numbers), f"{method} gave {found['count']} of {len(numbers)} frames"
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": found["wall"], "cpu": spent - found["cpu"], "ends": found["ends"]}


def compare(path: Path, frames: int, methods: list[str], cores: int, repeats: int) -> dict:
    """All methods by turns."""
    numbers = np.linspace(0, SECONDS * FPS - 1, frames).round().astype(int).tolist()
    runs: dict[str, list[dict]] = {name: [] for name in methods}
    for repeat in range(repeats):
        for name in methods:
            if name != "opencv" or repeat == 0:  # takes as long as all others together
                runs[name].append(measure(name, path, numbers, cores))
    for name, found in runs.items():
        for ours, theirs in zip(runs["videoxl"][0]["ends"], found[0]["ends"]):
            difference = np.abs(np.subtract(ours, theirs)).mean()
            assert difference < MOST_DIFFERENCE, f"{name} gave another frame: differs by {difference:.1f}"
    walls = {name: [round(run["wall"], 3) for run in found] for name, found in runs.items()}
    cpus = {name: [round(run["cpu"], 3) for run in found] for name, found in runs.items()}
    ratios = {
        other: statistics.median(theirs / ours for ours, theirs in zip(walls["videoxl"], walls[other]))
        for other in methods[1:]
    }
    return {
        "frames": frames,
        "median_wall_s": {name: statistics.median(values) for name, values in walls.items()},
        "median_cpu_s": {name: statistics.median(values) for name, values in cpus.items()},
        "times_as_fast_as": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "wall_s": walls,
        "cpu_s": cpus,
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--video", type=Path, help="what was generated before")
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--note", help="written into the results")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        method, path, numbers = arguments.run
        return run_one(method, Path(path), json.loads(numbers))
    with tempfile.TemporaryDirectory() as folder:
        video = arguments.video or Path(folder) / "generated.mp4"
        if not video.exists():
            generate(video, SECONDS)
        size = video.stat().st_size
        results: dict[str, dict] = {}
        for rule in arguments.rules:
            for cores in arguments.cores:
                name = f"{rule}, {cores} core{'s' * (cores > 1)}"
                results[name] = compare(video, RULES[rule], arguments.methods, cores, arguments.repeats)
                report(name, results[name])
    document = {
        "benchmark": "decode",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        **({"note": arguments.note} if arguments.note else {}),
        "versions": versions(),
        "video": f"{SECONDS} s of 1920x1080 at {FPS} fps, H.264 veryfast, one slice, key frame every 250, {size} bytes",
        "output": f"{SIZE}x{SIZE}",
        "targets_times_as_fast": TARGETS,
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return None


def report(name: str, result: dict) -> None:
    print(f"{name}: {result['frames']} frames")
    for method, wall in result["median_wall_s"].items():
        ratio = result["times_as_fast_as"].get(method)
        compared = "" if ratio is None else f"; videoxl is {ratio:.2f} times as fast"
        print(f"  {method:22} {wall:6.2f} s wall {result['median_cpu_s'][method]:6.2f} s cpu{compared}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
