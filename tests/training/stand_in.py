"""A run on drawn samples: no files, no decoding, the same in any process. For tests of everything but data."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.model.builders import small_beacon_model, small_model
from tests.model.random_tiny import tiny_tokenizer
from videoxl.hf.processing import VideoXLProcessor
from videoxl.training.config.training import TrainingConfig
from videoxl.training.data.dataset import DataConfig
from videoxl.training.data.mixtures import Source
from videoxl.training.setup import TrainingData, TrainingModel


class Samples:
    """``count`` samples of ``groups`` groups and an answer; ``bad`` ones fail, ``texts`` have no video."""

    def __init__(self, config, count=8, groups=1, *, bad=(), texts=(), spoil=()):
        self.config, self.count, self.groups = config, count, groups
        self.bad, self.texts, self.spoil = set(bad), set(texts), set(spoil)

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        if number in self.bad:
            return {"id": f"sample-{number}", "reason": "drawn to fail"}
        source = torch.Generator().manual_seed(1000 + number)
        visual = 0 if number in self.texts else self.groups * self.config.tokens_per_group
        size = self.config.image_size
        answer = torch.randint(5, 40, (4 + number % 3,), generator=source).tolist()
        sample = {
            "input_ids": [1, 2, 3, *[self.config.video_token_id] * visual, 60, *answer],
            "labels": [-100] * (4 + visual) + answer,
        }
        if visual:
            frames = self.groups * self.config.frames_per_group
            sample["pixels"] = torch.randn(frames, 3, size, size, generator=source)
        if number in self.spoil:
            sample["pixels"] = sample["pixels"] * float("nan")
        return sample


def collate(samples):
    good = [s for s in samples if "input_ids" in s]
    batch = {"bad_samples": [(s["id"], s["reason"]) for s in samples if "input_ids" not in s]}
    if not good:
        return batch
    length = max(len(s["input_ids"]) for s in good)

    def padded(name, filler):
        return torch.tensor([s[name] + [filler] * (length - len(s[name])) for s in good])

    batch |= {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100)}
    batch["attention_mask"] = torch.tensor(
        [[1] * len(s["input_ids"]) + [0] * (length - len(s["input_ids"])) for s in good]
    )
    pixels = [s["pixels"] for s in good if "pixels" in s]
    if pixels:
        batch["pixel_values_videos"] = torch.cat(pixels)
        batch["frames_per_video"] = torch.tensor([len(p) for p in pixels])
    return batch


def ordered(count, batch):
    """Seeded order, cut into as many batches for every process; what is left over is left out."""

    def order(epoch, rank, world):
        numbers = torch.randperm(count, generator=torch.Generator().manual_seed(epoch)).tolist()
        batches = [numbers[i : i + batch] for i in range(0, count - batch + 1, batch)]
        return batches[: len(batches) // world * world][rank::world]

    return order


def model_of(family="video-xl-2", **changes):
    return small_beacon_model(**changes) if family == "video-xl" else small_model(**changes)


def start_of(model) -> TrainingModel:
    tokenizer = tiny_tokenizer()
    return TrainingModel(model, model, tokenizer, VideoXLProcessor.from_config(model.config, tokenizer))


def data_of(model, *, batch=1, count=8, groups=1, **more) -> TrainingData:
    return TrainingData(Samples(model.config, count, groups, **more), collate, ordered(count, batch))


def config_of(**changes) -> TrainingConfig:
    data = changes.pop("data", {})
    return TrainingConfig(
        **{
            "name": "test",
            "model": "tiny",
            "data": DataConfig(**{"sources": (Source("none.json"),), **data}),
            "learning_rates": {"projector": 1e-3, "language_model": 1e-3},
            "max_steps": 4,
            "warmup_steps": 0.0,
            "lr_scheduler_type": "constant",
            "device": "cpu",
            **changes,
        }
    )


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def log_losses(folder: Path) -> list[float]:
    import json

    lines = (folder / "log.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
