"""Sets a run up: the model with its weights, and the data as the Trainer takes it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn

from videoxl.config import BeaconPrefill, ChunkedPrefill
from videoxl.hf.processing import VideoXLProcessor
from videoxl.inference.loading import load_model, resolve
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.folder import ModelFolder
from videoxl.model.layers import DecoderSpec
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.assemble import assemble, assembled_config, parts_of, with_beacons
from videoxl.training.config.training import TrainingConfig
from videoxl.training.data.batches import CollateFunction, SampleSource
from videoxl.training.data.collator import Collator
from videoxl.training.data.dataset import VideoDataset
from videoxl.training.data.features import FeatureCache
from videoxl.training.data.open_records import open_sources
from videoxl.training.data.order import BatchOrder
from videoxl.training.data.packing import PackedCollator, PackedOrder, mixes_kinds, packed_rows
from videoxl.training.data.pairs import PreferenceCollator, PreferenceDataset, reference_log_probs
from videoxl.training.data.records import Records
from videoxl.training.objectives.objective import LanguageTraining
from videoxl.training.objectives.preferences import PreferenceTraining
from videoxl.training.objectives.synthesis import SynthesisPretraining
from videoxl.training.param_groups import add_adapters, weight_dtype
from videoxl.training.pictures import set_pictures
from videoxl.training.pretrained import load_part, weight_files
from videoxl.training.protocols import Tokenizer


class Batches(Protocol):
    """The batches of one process in an epoch: numbers of samples."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sequence[int]]: ...


@dataclass(frozen=True)
class TrainingData:
    """The data that the Trainer reads."""

    dataset: SampleSource[object]
    """A sample by its number."""
    collator: CollateFunction
    """Samples to a batch of tensors."""
    order: Callable[[int, int, int], Batches]
    """Epoch, rank and number of processes -> that process's batches of sample numbers, as many for each."""


@dataclass(frozen=True)
class OpenFiles:
    """The files of records of a run."""

    training: Sequence[Records]
    validation: Sequence[Records] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many records each file of training holds: what a run is resumed with must hold as many."""
        return {f"{number} {file.path}": len(file) for number, file in enumerate(self.training, start=1)}


def open_files(config: TrainingConfig) -> OpenFiles:
    """Open all files of records, before weights are read. Raises :class:`TrainingDataError` for unusable ones."""
    measured = config.validation.all_sources() if config.validation is not None else ()
    return OpenFiles(open_sources(config.data.all_sources(), config.data), open_sources(measured, config.data))


@dataclass(frozen=True)
class TrainingModel:
    """The model a run begins with."""

    model: VideoXLForConditionalGeneration
    """The model itself, without adapters or objective around it."""
    module: nn.Module
    """The module that is trained: the model, or adapters or an objective around it."""
    tokenizer: Tokenizer
    processor: VideoXLProcessor


def load_model_to_train(config: TrainingConfig) -> TrainingModel:
    """The weights that a config names, with adapters or an objective around them.

    Raises ``ValueError`` where a setting does not fit the model, before weights are read, and :class:`CheckpointError`
    for unusable weights.
    """
    check_fits(config, described(config))
    model, tokenizer = _weights(config)
    model = prepare(model, config)
    return TrainingModel(
        model, _module(model, config), tokenizer, VideoXLProcessor.from_config(model.config, tokenizer)
    )


def described(config: TrainingConfig) -> VideoXLConfig:
    """The configuration of the model a run begins with. No weights are read."""
    if config.vision_tower is not None:
        return assembled_config(*parts_of(config.model, config.vision_tower))
    return ModelFolder.open(resolve(config.model)).config


def check_fits(config: TrainingConfig, model_config: VideoXLConfig) -> None:
    """Raise ``ValueError`` for settings that this model cannot run with, :class:`CheckpointError` for missing files."""
    found = copy.deepcopy(model_config)
    choose_prefill(config.prefill, found)
    set_pictures(config.data, found)
    _check_batches(config, found)
    if config.token_synthesis_weights is not None:
        if not found.traits.token_synthesis:
            raise ValueError(
                f"token_synthesis_weights are for models with token synthesis, and {found.family} has none"
            )
        weight_files(config.token_synthesis_weights)
    if config.projector_weights is not None:
        weight_files(config.projector_weights)


def _check_batches(config: TrainingConfig, model_config: VideoXLConfig) -> None:
    """Raise ``ValueError`` for batches and rows that this model cannot read."""
    if config.data.mix_kinds and not mixes_kinds(model_config):
        raise ValueError(
            f"data.mix_kinds puts images beside videos, and one id ({model_config.video_token_id}) stands for both in "
            "this model: leave it out, so that every batch holds one kind"
        )
    if config.data.packing and DecoderSpec.from_config(model_config.text_config).rope.sections:
        raise ValueError("data.packing restarts positions, which have three dimensions in this model: leave it out")


def _module(model: VideoXLForConditionalGeneration, config: TrainingConfig) -> nn.Module:
    """The module that is trained."""
    if config.objective == "synthesis":
        return SynthesisPretraining(model, config.synthesis)
    module = model if config.lora is None else add_adapters(model, config.lora, config.learning_rates)
    if config.objective == "preference":
        beacons = config.prefill if isinstance(config.prefill, BeaconPrefill) else None
        return PreferenceTraining(module, config.preference, prefill=beacons)
    if config.gathers_whole and config.sharding == "fsdp2":
        return LanguageTraining(module)
    return cast(nn.Module, module)


def prepare(model: VideoXLForConditionalGeneration, config: TrainingConfig) -> VideoXLForConditionalGeneration:
    """Let the model read as the run does; a Video-XL without beacons gets them where they are wanted."""
    choose_prefill(config.prefill, model.config)
    set_pictures(config.data, model.config)
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


def _weights(config: TrainingConfig) -> tuple[VideoXLForConditionalGeneration, Tokenizer]:
    model, tokenizer = _whole(config)
    if config.token_synthesis_weights is not None:
        load_part(model.model.token_synthesis, config.token_synthesis_weights, "token_synthesis")
    if config.projector_weights is not None:
        load_part(model.model.multi_modal_projector, config.projector_weights, "projector")
    return model, tokenizer


def _whole(config: TrainingConfig) -> tuple[VideoXLForConditionalGeneration, Tokenizer]:
    """The model before single parts are replaced."""
    if config.vision_tower is not None:
        return assemble(config.model, config.vision_tower, dtype=weight_dtype(config))
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


def load_data(
    config: TrainingConfig,
    model: TrainingModel,
    output: Path,
    *,
    rank: int = 0,
    world: int = 1,
    files: Sequence[Records] | None = None,
) -> TrainingData:
    """The data that a config names. Features of a frozen tower, and what pairs of answers are compared with, are
    computed first where the config asks for them. ``files``: of the records, if they are open."""
    dataset, collator = _data(config, model, output, rank, world, files)
    if config.data.packing:
        return _packed(config, dataset, cast(Collator, collator))
    sizes = dataset.lengths if config.data.group_by_length else len(dataset)
    # a batch of one holds one kind, so that the records need not be read for it
    kinds = dataset.kinds if config.per_device_batch_size > 1 and not config.data.mix_kinds else None
    return TrainingData(dataset, collator, _ordered(config, sizes, kinds, dataset.blocks))


def _packed(config: TrainingConfig, dataset: VideoDataset, collator: Collator) -> TrainingData:
    """Rows of several samples, in batches."""
    rows, kinds = packed_rows(config.data, dataset)
    ordered = _ordered(config, len(rows), kinds, None)

    def order(epoch: int, rank: int, world: int) -> PackedOrder:
        return PackedOrder(rows, ordered(epoch, rank, world))

    return TrainingData(dataset, PackedCollator(collator, cast(int, config.data.max_length)), order)


def _ordered(
    config: TrainingConfig, sizes: Sequence[int] | int, kinds: Sequence[str] | None, blocks: np.ndarray | None
) -> Callable[[int, int, int], BatchOrder]:
    """Batches of an epoch, for a rank among so many processes."""
    batch, seed = config.per_device_batch_size, config.data.seed

    def order(epoch: int, rank: int, world: int) -> BatchOrder:
        return BatchOrder(sizes, batch, seed=seed, epoch=epoch, rank=rank, world=world, kinds=kinds, blocks=blocks)

    return order


def _data(
    config: TrainingConfig,
    model: TrainingModel,
    output: Path,
    rank: int,
    world: int,
    files: Sequence[Records] | None,
) -> tuple[VideoDataset, CollateFunction]:
    examples = _collator(config, model)
    if not isinstance(model.module, PreferenceTraining):
        return _examples(config, model, rank, world, files), examples
    pairs = PreferenceDataset(config.data, model.model.config, model.tokenizer, prefill=config.prefill, files=files)
    return pairs, _comparing(config, model, pairs, examples, output)


def load_samples(
    config: TrainingConfig, model: TrainingModel, files: Sequence[Records] | None = None
) -> tuple[VideoDataset, Collator]:
    """Samples of ``config.data`` that are read from their files, and what makes batches of them."""
    dataset = VideoDataset(config.data, model.model.config, model.tokenizer, prefill=config.prefill, files=files)
    return dataset, _collator(config, model)


def _collator(config: TrainingConfig, model: TrainingModel) -> Collator:
    mask = config.prefill if isinstance(config.prefill, ChunkedPrefill) else None
    return Collator(model.model.config, model.tokenizer.pad_token_id, mask=mask, raw_pixels=True)


def _examples(
    config: TrainingConfig, model: TrainingModel, rank: int, world: int, files: Sequence[Records] | None
) -> VideoDataset:
    made = partial(VideoDataset, config.data, model.model.config, model.tokenizer, prefill=config.prefill, files=files)
    if config.data.feature_cache is None:
        return made()
    if "vision_tower" in config.learning_rates:
        raise ValueError(
            "data.feature_cache keeps what a frozen vision tower gives, and learning_rates.vision_tower trains it: "
            "leave one of them out"
        )
    cache = FeatureCache(config.data.feature_cache, model.model, limit_gb=config.data.feature_cache_gb)
    dataset = made(features=cache)
    dataset.fill_features(model.model, rank=rank, world=world)
    if world > 1:
        torch.distributed.barrier()
    return dataset


def _comparing(
    config: TrainingConfig, model: TrainingModel, dataset: PreferenceDataset, collator: Collator, output: Path
) -> PreferenceCollator:
    """A collator that adds log-probabilities of the starting weights; with adapters, the model itself gives them."""
    windows = bool(model.model.config.has_beacons)
    if config.lora is not None:
        return PreferenceCollator(collator, windows=windows)
    on_gpu = config.device == "auto" and torch.cuda.is_available()
    reference = reference_log_probs(
        cast(PreferenceTraining, model.module),
        dataset,
        PreferenceCollator(collator, windows=windows),
        output / "reference.json",
        device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu",
        autocast=torch.bfloat16 if config.precision == "bf16" else None,
    )
    return PreferenceCollator(collator, reference, windows=windows)


def merge_adapters(config: TrainingConfig, adapters: Path, target: Path, processor: VideoXLProcessor) -> None:
    """Merge adapters into the weights they were trained on, not quantised, and write a plain model folder."""
    from peft import PeftModel

    model, _ = _weights(replace(config, quantization=None, device="cpu"))
    merged = PeftModel.from_pretrained(prepare(model, config), str(adapters)).merge_and_unload()
    merged.save_pretrained(target)
    processor.save_pretrained(target)
