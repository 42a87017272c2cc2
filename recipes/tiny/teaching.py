"""A course of lessons as a training run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed import barrier, is_initialized

from recipes.tiny.beacon_learning import BeaconLearning
from recipes.tiny.learning import AnswerLearning
from recipes.tiny.lessons import FilmCollator, FilmDataset, Lesson, Scribe, Show
from videoxl.config import PrefillStrategy
from videoxl.hf.processing import VideoXLProcessor
from videoxl.training.config.training import Scheduler, TrainingConfig
from videoxl.training.data.dataset import DataConfig
from videoxl.training.data.mixtures import Source
from videoxl.training.run import TrainingResult, run
from videoxl.training.setup import TrainingData, TrainingModel

HEADS = "heads.pt"
"""File of the heads that listen to hints, for the next course."""
MUON_SHARE = 2.5
"""The rate of matrices, as a share: a third to a half of the steps that half the rate takes, tried up to 6."""


def teach(
    model: Any,
    tokenizer: Any,
    course: Sequence[Lesson],
    show: Show,
    output: Path,
    *,
    parts: Mapping[str, float],
    schedule: Scheduler = "constant_with_warmup",
    seed: int = 0,
    prefill: PrefillStrategy | None = None,
    heads: Path | None = None,
    mixed: bool = False,
    blind: int = 0,
) -> TrainingResult:
    """Train ``model`` in place on a course, and write ``output/model``; a run that was interrupted goes on.

    Where several processes call it (``torchrun``), each reads its share of the films of a step.

    Args:
        show: what is seen of a film.
        parts: shares of the course's learning rate for the parts that are trained.
        prefill: how a model with beacons reads; default in full.
        mixed: whether steps of all lessons are mixed; default one lesson after the other.
        heads: folder of a course, read in the same way, whose heads listen on; default fresh ones, which a hundred
            steps go into.
        blind: in how many layers questions do not see a film that is read in full
            (:class:`~recipes.tiny.learning.AnswerLearning`). ``ValueError`` for one beside a ``prefill``.
    """
    if blind and prefill is not None:
        raise ValueError(f"got blind={blind} with prefill={prefill}: only films that are read in full can be hidden")
    steps = sum(lesson.steps for lesson in course)
    rate = course[0].rate
    rates = {part: share * rate for part, share in parts.items()}
    how: dict[str, Any] = {} if prefill is None else {"prefill": prefill}
    config = TrainingConfig(
        name=output.name,
        model="tiny",
        data=DataConfig(sources=(Source("films of the generated world"),), seed=seed, num_workers=0),
        learning_rates=rates | {"objective": rate},
        max_steps=steps,
        per_device_batch_size=max(lesson.films for lesson in course),
        optim="muon",
        muon_lr_ratio=MUON_SHARE,
        betas=(0.9, 0.98),
        weight_decay=0.05,
        lr_scheduler_type=schedule,
        warmup_steps=min(40, steps // 4),
        precision="bf16",
        logging_steps=max(1, min(50, steps // 4)),
        save_steps=500,
        save_total_limit=1,
        seed=seed,
        **how,
    )
    scribe = Scribe(model.config, tokenizer)
    films = FilmDataset(course, scribe, show, seed=seed, mixed=mixed)
    torch.manual_seed(seed)  # for the heads
    module = AnswerLearning(model, blind=blind) if prefill is None else BeaconLearning(model)
    if heads is not None:
        module.heads.load_state_dict(torch.load(heads / HEADS, weights_only=True))
    start = TrainingModel(model, module, tokenizer, VideoXLProcessor.from_config(model.config, tokenizer))
    collator = FilmCollator(model.config, tokenizer.pad_token_id)
    data = TrainingData(films, collator, lambda epoch, rank, world: films.share(rank, world))
    result = run(config, output=output, resume=True, model=start, data=data)
    if is_first_process():
        torch.save(module.heads.state_dict(), output / HEADS)
    if is_initialized():
        barrier()  # the next course reads them
    return result


def is_first_process() -> bool:
    """Whether this is the one that writes, of those that share a run."""
    return os.environ.get("RANK", "0") == "0"
