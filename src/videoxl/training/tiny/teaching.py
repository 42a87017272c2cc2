"""A course of lessons as a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from videoxl.inference.processing import VideoXLProcessor
from videoxl.training.config import Schedule, TrainingConfig
from videoxl.training.data import DataConfig
from videoxl.training.mixtures import Source
from videoxl.training.run import TrainingResult, run
from videoxl.training.starting import Data, Start
from videoxl.training.tiny.learning import AnswerLearning
from videoxl.training.tiny.lessons import FilmCollator, FilmDataset, Lesson, Scribe, Show


def teach(
    model: Any,
    tokenizer: Any,
    course: Sequence[Lesson],
    show: Show,
    output: Path,
    *,
    rate: float,
    parts: Mapping[str, float],
    schedule: Schedule = "constant_with_warmup",
    seed: int = 0,
    scale: float = 1.0,
    prefill: Any = None,
) -> TrainingResult:
    """Train ``model`` in place on a course, and write ``output/model``; a run that was interrupted goes on.

    Args:
        show: what is seen of a film.
        rate: peak learning rate.
        parts: shares of it for the parts that are trained.
        scale: share of all steps that is done, for trying a course out.
        prefill: how a model with beacons reads; default in full.
    """
    course = [replace(lesson, steps=max(2, round(lesson.steps * scale))) for lesson in course]
    steps = sum(lesson.steps for lesson in course)
    config = TrainingConfig(
        name=output.name,
        model="tiny",
        data=DataConfig(sources=(Source("films of the generated world"),), seed=seed, workers=0),
        learning_rates={**{part: share * rate for part, share in parts.items()}, "objective": rate},
        steps=steps,
        batch=max(lesson.films for lesson in course),
        optimiser="muon",
        betas=(0.9, 0.98),
        weight_decay=0.05,
        schedule=schedule,
        warmup=min(40, steps // 4),
        precision="bf16",
        log_every=max(1, min(50, steps // 4)),
        save_every=500,
        keep=1,
        seed=seed,
        **({} if prefill is None else {"prefill": prefill}),
    )
    scribe = Scribe(model.config, tokenizer)
    films = FilmDataset(course, scribe, show, seed=seed)
    torch.manual_seed(seed)  # for the heads
    start = Start(model, AnswerLearning(model), tokenizer, VideoXLProcessor.from_config(model.config, tokenizer))
    data = Data(films, FilmCollator(model.config, tokenizer.pad_token_id), lambda epoch, rank, world: films.share(rank, world))
    return run(config, output=output, resume=True, progress=False, start=start, data=data)
