"""What a run starts from: the model with its weights, and the data as the Trainer takes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from videoxl.config import EMBEDDED, BeaconPrefill, ChunkedPrefill
from videoxl.inference.loading import load_model
from videoxl.inference.processing import VideoXLProcessor
from videoxl.inference.strategies import choose_prefill
from videoxl.training.collator import Collator
from videoxl.training.config import TrainingConfig
from videoxl.training.data import VideoDataset
from videoxl.training.order import BatchOrder
from videoxl.training.parts import add_adapters, weight_dtype


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
    collator: Callable[[list[Any]], dict[str, Any]] | None = None
    """Of an objective that needs its own."""


def starting_model(config: TrainingConfig) -> Start:
    """The weights that a config names, with adapters or an objective around them. Raises ``ValueError`` where a setting
    does not fit the model."""
    model, tokenizer = _weights(config)
    prepare(model, config)
    processor = VideoXLProcessor.from_config(model.config, tokenizer)
    return Start(model, _module(model, config), tokenizer, processor)


def _module(model: Any, config: TrainingConfig) -> nn.Module:
    """What is trained."""
    if config.lora is not None:
        return add_adapters(model, config.lora, config.learning_rates)
    if config.objective == "synthesis":
        from videoxl.training.synthesis import SynthesisPretraining

        return SynthesisPretraining(model)
    return cast(nn.Module, model)


def prepare(model: Any, config: TrainingConfig) -> None:
    """Let the model read as the run does."""
    choose_prefill(config.prefill, model.config)
    if isinstance(config.prefill, BeaconPrefill) and config.prefill.window is not None:
        model.config.beacon_window = config.prefill.window


def _weights(config: TrainingConfig) -> tuple[Any, Any]:
    on_gpu = config.device == "auto" and torch.cuda.is_available()
    # the Trainer moves weights to the GPU; quantised ones are made there
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu and config.quantization else "cpu"
    loaded = load_model(
        config.model,
        device=device,
        dtype=weight_dtype(config),
        attention="auto",
        quantization=config.quantization if config.model not in EMBEDDED else None,
    )
    return loaded.model, loaded.tokenizer


def read_data(config: TrainingConfig, start: Start) -> Data:
    """The data that a config names."""
    dataset = VideoDataset(config.data, start.model.config, start.tokenizer, prefill=config.prefill)
    mask = config.prefill if isinstance(config.prefill, ChunkedPrefill) else None
    collator = start.collator or Collator(start.model.config, start.tokenizer.pad_token_id, mask=mask)

    sizes = dataset.lengths if config.data.group_by_length else len(dataset)
    kinds = dataset.kinds if config.batch > 1 else None  # a batch of one holds one kind, and needs no look at records

    def order(epoch: int, rank: int, world: int) -> Any:
        return BatchOrder(sizes, config.batch, seed=config.data.seed, epoch=epoch, rank=rank, world=world, kinds=kinds)

    return Data(dataset, collator, order)


def merge_adapters(config: TrainingConfig, adapters: Path, target: Path, start: Start) -> None:
    """Work adapters into the weights they were trained on, in full precision, and write a plain model folder."""
    from peft import PeftModel

    model, _ = _weights(replace(config, quantization=None, device="cpu"))
    prepare(model, config)
    merged = PeftModel.from_pretrained(model, str(adapters)).merge_and_unload()
    merged.save_pretrained(target)
    start.processor.save_pretrained(target)
