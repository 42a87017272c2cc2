"""Training: the Trainer's path against a plain loop, side by side in one run, and how long training waits for data.

    python benchmarks/train.py --json benchmarks/results/train-cpu2.json

Both train the same model on the same batches, held in memory; every loss of theirs is compared before anything is
timed. Then the Trainer's path reads generated films (H.264) with 0, 1 and 2 worker processes, and the time between
asking for a step's batches and having them is added up, without the first step's. With 0 workers the share of processor
time says what a busy machine cannot blur: below a half, a worker on a second core keeps up with training on the first.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from recipes.tiny.sizes import model_config
from recipes.tiny.words import tokenizer

from videoxl.config import TINY, Sampling
from videoxl.hf.processing import VideoXLProcessor
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.config.training import TrainingConfig
from videoxl.training.data.collator import Collator
from videoxl.training.data.dataset import DataConfig, VideoDataset
from videoxl.training.data.mixtures import Source
from videoxl.training.data.order import BatchOrder
from videoxl.training.run import run
from videoxl.training.setup import TrainingData, TrainingModel
from videoxl.training.trainer import VideoXLTrainer
from videoxl.world import write_world

BATCH, RATE, CLIP = 2, 1e-4, 1.0
FRAMES = 16
TOLERANCE = 1e-5
STARVED = 0.10
"""Data loading starves a run that waits for more than this share of its time."""
SIZES = {
    "tiny": {},
    "small": {
        "text_config": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8},
        "vision_config": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6},
    },
}
"""What a model is bigger by than the embedded one."""


def fresh_model(size: str) -> VideoXLForConditionalGeneration:
    """Of Video-XL-2, the same weights at every call."""
    values = model_config(tokenizer(), TINY).to_dict()
    for part, changes in SIZES[size].items():
        values[part] |= changes
        values[part].pop("layer_types", None)
    torch.manual_seed(0)
    return VideoXLForConditionalGeneration._from_config(VideoXLConfig.from_dict(values))


def config_of(world: Path, steps: int, workers: int = 0) -> TrainingConfig:
    data = DataConfig(
        sources=(Source(str(world)),),
        sampling=Sampling(fps=1.0, max_frames=FRAMES),
        labels="answers",
        num_workers=workers,
    )
    return TrainingConfig(
        name="benchmark",
        model="tiny",
        data=data,
        learning_rates=dict.fromkeys(("vision_tower", "token_synthesis", "projector", "language_model"), RATE),
        max_steps=steps,
        per_device_batch_size=BATCH,
        lr_scheduler_type="constant",
        warmup_steps=0.0,
        max_grad_norm=CLIP,
        save_steps=10**6,
        device="cpu",
    )


Clock = tuple[float, float]


def now() -> Clock:
    """Seconds of wall time, and of this process's processor time."""
    return time.perf_counter(), time.process_time()


class Clocked:
    """A collator that notes the time of every call."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator
        self.calls: list[Clock] = []

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        self.calls.append(now())
        return self.collator(samples)

    def rates(self) -> dict[str, float]:
        """Samples per second of wall and of processor time, from the first batch asked for to the last."""
        (wall, cpu), (wall_end, cpu_end) = self.calls[0], self.calls[-1]
        samples = BATCH * (len(self.calls) - 1)
        return {"wall": samples / (wall_end - wall), "cpu": samples / (cpu_end - cpu)}


def start_of(model: Any) -> TrainingModel:
    words = tokenizer()
    return TrainingModel(model, model, words, VideoXLProcessor.from_config(model.config, words))


def order_of(count: int) -> Any:
    return lambda epoch, rank, world: BatchOrder(count, BATCH, seed=0, epoch=epoch, rank=rank, world=world)


def by_trainer(config: TrainingConfig, size: str, samples: Sequence[Any]) -> tuple[list[float], Clocked]:
    """Losses, and the clock."""
    model = fresh_model(size)
    clock = Clocked(Collator(model.config, tokenizer().pad_token_id))
    with tempfile.TemporaryDirectory() as folder:
        data = TrainingData(samples, clock, order_of(len(samples)))
        result = run(config, output=folder, progress=False, model=start_of(model), data=data)
    return [entry["loss"] for entry in result.log if "loss" in entry], clock


def by_plain_loop(config: TrainingConfig, size: str, samples: Sequence[Any]) -> tuple[list[float], Clocked]:
    """What somebody would write by hand: no guard, no log file, no checkpoints, no resuming."""
    model = fresh_model(size).train()
    clock = Clocked(Collator(model.config, tokenizer().pad_token_id))
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    losses: list[float] = []
    for numbers in plain_order(len(samples), config.max_steps):
        batch = clock([samples[number] for number in numbers])
        batch.pop("bad_samples")
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses, clock


def plain_order(count: int, steps: int) -> Iterator[Sequence[int]]:
    epoch = 0
    while steps:
        for batch in order_of(count)(epoch, 0, 1):
            if not steps:
                return
            yield batch
            steps -= 1
        epoch += 1


def against_plain_loop(world: Path, size: str, steps: int, rounds: int) -> dict:
    """Ratios of rounds in turns, after the losses were found to be the same."""
    config = config_of(world, steps)
    dataset = VideoDataset(config.data, fresh_model(size).config, tokenizer())
    samples = [dataset[number] for number in range(len(dataset))]
    paths = {"trainer": by_trainer, "plain": by_plain_loop}
    first = {name: path(config, size, samples)[0] for name, path in paths.items()}  # also warms both up
    error = max(abs(a - b) / abs(b) for a, b in zip(first["trainer"], first["plain"], strict=True))
    if error > TOLERANCE:
        raise SystemExit(f"losses differ by {error:.1e} of their size: nothing was timed")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    for number in range(rounds):
        for name in sorted(paths, reverse=number % 2 == 0):
            runs[name].append(paths[name](config, size, samples)[1].rates())
    medians = {
        name: {k: statistics.median(r[k] for r in rates) for k in ("wall", "cpu")} for name, rates in runs.items()
    }
    ratio = {kind: medians["trainer"][kind] / medians["plain"][kind] for kind in ("wall", "cpu")}
    return {"samples_per_s": medians, "trainer_over_plain": ratio, "largest_loss_difference": error, "runs": runs}


@contextmanager
def noted_waits() -> Iterator[list[tuple[Clock, Clock]]]:
    """When every step asked for its batches, and when it had them."""
    waits: list[tuple[Clock, Clock]] = []
    ordinary = VideoXLTrainer.get_batch_samples

    def noting(self: VideoXLTrainer, *arguments: Any) -> Any:
        asked = now()
        batches = ordinary(self, *arguments)
        waits.append((asked, now()))
        return batches

    VideoXLTrainer.get_batch_samples = noting
    try:
        yield waits
    finally:
        VideoXLTrainer.get_batch_samples = ordinary


def waiting(world: Path, size: str, steps: int, workers: int) -> dict:
    """The share of a run's time that goes by before batches are there, from the second step on."""
    config, model = config_of(world, steps, workers), fresh_model(size)
    dataset = VideoDataset(config.data, model.config, tokenizer())
    collator = Collator(model.config, tokenizer().pad_token_id)
    with tempfile.TemporaryDirectory() as folder, noted_waits() as waits:
        data = TrainingData(dataset, collator, order_of(len(dataset)))
        result = run(config, output=folder, progress=False, model=start_of(model), data=data)
    waits = waits[: config.max_steps]
    wall, cpu = (waits[-1][1][kind] - waits[0][1][kind] for kind in (0, 1))
    waited, worked = (sum(had[kind] - asked[kind] for asked, had in waits[1:]) for kind in (0, 1))
    return {
        "share": waited / wall,
        "share_of_processor_time": worked / cpu,
        "samples_per_s": BATCH * (len(waits) - 1) / wall,
        "bad_samples": result.bad_samples,
    }


def commit() -> str:
    """The commit that is checked out, marked where files differ from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--films", type=int, default=16)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    load = os.getloadavg()[0]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(folder, arguments.films, groups=(FRAMES // 4, FRAMES // 4), seed=1)
        for size in arguments.sizes:
            plain = against_plain_loop(world, size, arguments.steps, arguments.rounds)
            rates, ratio = plain["samples_per_s"], plain["trainer_over_plain"]
            print(
                f"{size}: Trainer {rates['trainer']['wall']:.2f}, plain loop {rates['plain']['wall']:.2f} samples/s: "
                f"{ratio['wall']:.3f} times as fast ({ratio['cpu']:.3f} by processor time)",
                flush=True,
            )
            waits = {}
            for workers in (0, 1, 2):
                waits[str(workers)] = waiting(world, size, arguments.steps, workers)
                share, cpu, rate = (
                    waits[str(workers)][n] for n in ("share", "share_of_processor_time", "samples_per_s")
                )
                print(
                    f"{size}: {workers} workers: {share:.1%} of the time waiting ({cpu:.1%} of its processor time), "
                    f"{rate:.2f} samples/s",
                    flush=True,
                )
            parameters = sum(p.numel() for p in fresh_model(size).parameters())
            results[size] = {"parameters": parameters, "against_plain_loop": plain, "waiting_by_workers": waits}
    document = {
        "benchmark": "train",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "threads": torch.get_num_threads(),
        "load_before": load,
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "data": f"{arguments.films} films of {FRAMES} frames, 192x192 H.264; {arguments.steps} steps of {BATCH}",
        "starved_above": STARVED,
        "results_by_size": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
