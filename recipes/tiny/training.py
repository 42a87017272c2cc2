"""A curriculum of phases as a training run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed import barrier, is_initialized

from recipes.tiny.beacon_learning import BeaconLearning
from recipes.tiny.learning import AnswerLearning
from recipes.tiny.phases import FilmCollator, FilmDataset, Phase, PromptWriter, Show
from recipes.tiny.sizes import IMAGE
from videoxl.config import PrefillStrategy
from videoxl.hf.processing import VideoXLProcessor
from videoxl.training.config.training import Precision, Scheduler, TrainingConfig
from videoxl.training.data.dataset import DataConfig
from videoxl.training.data.mixtures import Source
from videoxl.training.run import TrainingResult, run
from videoxl.training.setup import TrainingData, TrainingModel
from videoxl.world.film import FRAMES_PER_GROUP

HEADS = "heads.pt"
"""File of the heads that predict auxiliary targets, for the next curriculum."""
MUON_LR_RATIO = 2.5
"""Muon's rate divided by the others'. Training takes a third to a half of the steps that 0.5 takes; tried up to 6."""


def train_curriculum(
    model: Any,
    tokenizer: Any,
    curriculum: Sequence[Phase],
    show: Show,
    output: Path,
    *,
    rate_factors: Mapping[str, float],
    schedule: Scheduler = "constant_with_warmup",
    seed: int = 0,
    prefill: PrefillStrategy | None = None,
    heads: Path | None = None,
    mixed: bool = False,
    hidden_video_layers: int = 0,
    precision: Precision = "bf16",
) -> TrainingResult:
    """Train ``model`` in place on a curriculum, and write ``output/model``; a run that was interrupted goes on.

    Where several processes call it (``torchrun``), each reads its share of the films of a step.

    Args:
        show: what is seen of a film.
        rate_factors: the learning rates of parameter groups, divided by the curriculum's; others are frozen.
        prefill: how a model with beacons reads; default in full.
        mixed: whether steps of all phases are mixed; default one phase after the other.
        heads: folder of a curriculum, read in the same way, whose heads are used again; default fresh ones, which take
            a hundred steps to train.
        hidden_video_layers: in how many layers questions do not see a film that is read in full
            (:class:`~recipes.tiny.learning.AnswerLearning`). ``ValueError`` for one beside a ``prefill``.
        precision: of multiplications. Where a CPU has no units for bf16, fp32 takes a third of the time.
    """
    if hidden_video_layers and prefill is not None:
        raise ValueError(
            f"got hidden_video_layers={hidden_video_layers} with prefill={prefill}: only films that are read in full "
            "can be hidden"
        )
    steps = sum(phase.steps for phase in curriculum)
    rate = curriculum[0].rate
    rates = {group: factor * rate for group, factor in rate_factors.items()}
    how: dict[str, Any] = {} if prefill is None else {"prefill": prefill}
    config = TrainingConfig(
        name=output.name,
        model="tiny",
        data=DataConfig(sources=(Source("films of the generated world"),), seed=seed, num_workers=0),
        learning_rates=rates | {"objective": rate},
        max_steps=steps,
        per_device_batch_size=max(phase.films for phase in curriculum),
        optim="muon",
        muon_lr_ratio=MUON_LR_RATIO,
        betas=(0.9, 0.98),
        weight_decay=0.05,
        lr_scheduler_type=schedule,
        warmup_steps=min(40, steps // 4),
        precision=precision,
        logging_steps=max(1, min(50, steps // 4)),
        save_steps=500,
        save_total_limit=1,
        seed=seed,
        **how,
    )
    writer = PromptWriter(model.config.sized(FRAMES_PER_GROUP, IMAGE, IMAGE), tokenizer)
    films = FilmDataset(curriculum, writer, show, seed=seed, mixed=mixed)
    torch.manual_seed(seed)  # for the heads
    module = (
        AnswerLearning(model, hidden_video_layers=hidden_video_layers) if prefill is None else BeaconLearning(model)
    )
    if heads is not None:
        module.heads.load_state_dict(torch.load(heads / HEADS, weights_only=True))
    start = TrainingModel(model, module, tokenizer, VideoXLProcessor.from_config(model.config, tokenizer))
    collator = FilmCollator(model.config, tokenizer.pad_token_id)
    data = TrainingData(films, collator, lambda epoch, rank, world: films.share(rank, world))
    result = run(config, output=output, resume=True, model=start, data=data)
    if is_first_process():
        torch.save(module.heads.state_dict(), output / HEADS)
    if is_initialized():
        barrier()  # the next curriculum reads them
    return result


def is_first_process() -> bool:
    """Whether this is the one that writes, of those that share a run."""
    return os.environ.get("RANK", "0") == "0"
