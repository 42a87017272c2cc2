"""What a run starts from: the model with its weights, and the data as the Trainer takes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from videoxl.config import BeaconPrefill, ChunkedPrefill
from videoxl.hf.processing import VideoXLProcessor
from videoxl.inference.loading import load_model
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.training.assemble import join, with_beacons
from videoxl.training.config.training import TrainingConfig
from videoxl.training.data.collator import Collator
from videoxl.training.data.dataset import VideoDataset
from videoxl.training.data.features import FeatureCache
from videoxl.training.data.order import BatchOrder
from videoxl.training.data.pairs import PreferenceCollator, PreferenceDataset, reference_log_probs
from videoxl.training.objectives.preferences import PreferenceTraining
from videoxl.training.objectives.synthesis import SynthesisPretraining
from videoxl.training.param_groups import add_adapters, weight_dtype


@dataclass(frozen=True)
class Data:
    """What the Trainer reads."""

    dataset: Any
    """A sample by its number."""
    collator: Callable[[list[Any]], dict[str, Any]]
    """Samples to a batch of tensors."""
    order: Callable[[int, int, int], Collection[Sequence[int]]]
    """Epoch, rank and number of processes -> that process's batches of sample numbers, as many for each."""


@dataclass(frozen=True)
class Start:
    """The model a run begins with."""

    model: Any
    """The model itself, without adapters or objective around it."""
    module: nn.Module
    """What is trained: the model, or it inside adapters or an objective."""
    tokenizer: Any
    processor: Any


def starting_model(config: TrainingConfig) -> Start:
    """The weights that a config names, with adapters or an objective around them.

    Raises ``ValueError`` where a setting does not fit the model, :class:`CheckpointError` for unusable weights.
    """
    model, tokenizer = _weights(config)
    model = prepare(model, config)
    return Start(model, _module(model, config), tokenizer, VideoXLProcessor.from_config(model.config, tokenizer))


def _module(model: Any, config: TrainingConfig) -> nn.Module:
    """What is trained."""
    if config.objective == "synthesis":
        return SynthesisPretraining(model, config.synthesis)
    module = model if config.lora is None else add_adapters(model, config.lora, config.learning_rates)
    if config.objective == "preference":
        beacons = config.prefill if isinstance(config.prefill, BeaconPrefill) else None
        return PreferenceTraining(module, config.preference, prefill=beacons)
    return cast(nn.Module, module)


def prepare(model: Any, config: TrainingConfig) -> Any:
    """Let the model read as the run does; a Video-XL without beacons gets them where they are wanted."""
    choose_prefill(config.prefill, model.config)
    if isinstance(config.prefill, BeaconPrefill):
        if not model.config.has_beacons:
            model = with_beacons(model)
        if config.prefill.window is not None:
            model.config.beacon_window = config.prefill.window
    elif model.config.has_beacons and config.objective != "synthesis":
        raise ValueError(
            f"{config.model} reads pictures in windows, so prefill must be beacon with its ratios, got {config.prefill}"
        )
    return model


def _weights(config: TrainingConfig) -> tuple[Any, Any]:
    if config.vision_tower is not None:
        return join(config.model, config.vision_tower, dtype=weight_dtype(config))
    on_gpu = config.device == "auto" and torch.cuda.is_available()
    # the Trainer moves weights to the GPU; quantised ones are made there
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu and config.quantization else "cpu"
    loaded = load_model(
        config.model,
        device=device,
        dtype=weight_dtype(config),
        attention="auto",
        quantization=config.quantization,
    )
    return loaded.model, loaded.tokenizer


def read_data(config: TrainingConfig, start: Start, output: Path, *, rank: int = 0, world: int = 1) -> Data:
    """The data that a config names. Features of a frozen tower, and what pairs of answers are compared with, are
    computed first where the config asks for them."""
    collator: Any = Collator(
        start.model.config,
        start.tokenizer.pad_token_id,
        mask=config.prefill if isinstance(config.prefill, ChunkedPrefill) else None,
    )
    dataset: VideoDataset
    if isinstance(start.module, PreferenceTraining):
        dataset = PreferenceDataset(config.data, start.model.config, start.tokenizer, prefill=config.prefill)
        collator = _comparing(config, start, dataset, collator, output)
    else:
        dataset = _examples(config, start, rank, world)
    sizes = dataset.lengths if config.data.group_by_length else len(dataset)
    kinds = (
        dataset.kinds if config.per_device_batch_size > 1 else None
    )  # a batch of one holds one kind, and needs no look at records

    def order(epoch: int, rank: int, world: int) -> Any:
        return BatchOrder(
            sizes, config.per_device_batch_size, seed=config.data.seed, epoch=epoch, rank=rank, world=world, kinds=kinds
        )

    return Data(dataset, collator, order)


def _examples(config: TrainingConfig, start: Start, rank: int, world: int) -> VideoDataset:
    if config.data.feature_cache is None:
        return VideoDataset(config.data, start.model.config, start.tokenizer, prefill=config.prefill)
    if "vision_tower" in config.learning_rates:
        raise ValueError(
            "data.feature_cache keeps what a frozen vision tower gives, and learning_rates.vision_tower trains it: "
            "leave one of them out"
        )
    cache = FeatureCache(config.data.feature_cache, start.model, limit_gb=config.data.feature_cache_gb)
    dataset = VideoDataset(config.data, start.model.config, start.tokenizer, prefill=config.prefill, features=cache)
    dataset.fill_features(start.model, rank=rank, world=world)
    if world > 1:
        torch.distributed.barrier()
    return dataset


def _comparing(
    config: TrainingConfig, start: Start, dataset: PreferenceDataset, collator: Collator, output: Path
) -> PreferenceCollator:
    """With what the starting weights say of all pairs; adapters need none, they can be left out."""
    windows = bool(start.model.config.has_beacons)
    if config.lora is not None:
        return PreferenceCollator(collator, windows=windows)
    on_gpu = config.device == "auto" and torch.cuda.is_available()
    reference = reference_log_probs(
        cast(PreferenceTraining, start.module),
        dataset,
        PreferenceCollator(collator, windows=windows),
        output / "reference.json",
        device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu",
        autocast=torch.bfloat16 if config.precision == "bf16" else None,
    )
    return PreferenceCollator(collator, reference, windows=windows)


def merge_adapters(config: TrainingConfig, adapters: Path, target: Path, start: Start) -> None:
    """Work adapters into the weights they were trained on, not quantised, and write a plain model folder."""
    from peft import PeftModel

    model, _ = _weights(replace(config, quantization=None, device="cpu"))
    merged = PeftModel.from_pretrained(prepare(model, config), str(adapters)).merge_and_unload()
    merged.save_pretrained(target)
    start.processor.save_pretrained(target)
