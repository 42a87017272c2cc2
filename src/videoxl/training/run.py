"""From a config to a trained model: puts weights, data and Trainer together, and resumes interrupted runs."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PrinterCallback, ProgressCallback

from videoxl.errors import TrainingError, TrainingInterruptedError
from videoxl.text import tell_text
from videoxl.training.arguments import training_arguments
from videoxl.training.callbacks import LogFile, ProgressLine, Stop, StopOnSignal, stopping_on_signals
from videoxl.training.checkpoints import STAGING, Facts, Found, find, publish, remove_leftovers
from videoxl.training.config.overrides import differences, made, plain
from videoxl.training.config.training import TrainingConfig
from videoxl.training.data.batches import RunOrder
from videoxl.training.ema import WeightAverage
from videoxl.training.param_groups import enable_checkpointing, freeze
from videoxl.training.saving import CheckpointWriter, no_progress_bars, writing
from videoxl.training.setup import (
    OpenFiles,
    TrainingData,
    TrainingModel,
    load_data,
    load_model_to_train,
    merge_adapters,
    open_files,
)
from videoxl.training.trainer import VideoXLTrainer
from videoxl.training.trainer_hooks import load_models_whole
from videoxl.training.validation import BEST, Measurements, Validation, load_validation

MODEL, ADAPTERS = "model", "adapters"
"""Folders in the output folder: the trained model, and adapters by themselves."""
FREE_TO_CHANGE = (
    "name",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "report_to",
    "max_consecutive_skips",
    "max_skipped_fraction",
    "device",
    "data.num_workers",
    "data.prefetch_factor",
    "data.max_bad_fraction",
    "data.feature_cache",
    "data.media_cache",
    "data.media_cache_gb",
)
"""Settings that a run may be resumed with changed, those of ``validation`` beside them: they do not change what is
computed."""


@dataclass(frozen=True)
class TrainingResult:
    """The results of a finished run."""

    model: Path
    """The trained model: a folder for :func:`videoxl.load`."""
    steps: int
    loss: float | None
    """The last loss in the log."""
    log: list[dict[str, float]] = field(repr=False)
    """All entries of ``log.jsonl``."""
    trained: tuple[str, ...] = field(repr=False)
    """Names of the weights that were trained."""
    skipped_steps: int = 0
    bad_samples: int = 0
    passed_over: tuple[str, ...] = ()
    """Checkpoints that were not complete when the run was resumed, each with the reason."""
    best: Path | None = None
    """The model with the lowest loss on the data of ``validation``; with adapters, these alone."""


def run(
    config: TrainingConfig,
    *,
    output: str | os.PathLike[str],
    resume: bool = False,
    progress: bool = True,
    notify: Callable[[str], None] | None = None,
    model: TrainingModel | None = None,
    data: TrainingData | None = None,
) -> TrainingResult:
    """Train, and write ``output/model``.

    The same call runs on a CPU, on a GPU, and in every process of ``torchrun``.

    Args:
        resume: go on from the newest complete checkpoint in ``output``; where there is none, begin.
        notify: called with what a person should know, such as a checkpoint that was passed over. Default: print to
            stderr.
        model, data: used instead of what ``config.model`` and ``config.data`` name.

    Raises :class:`TrainingError` (a run that cannot go on, a checkpoint that could not be written or is of another
    run), :class:`TrainingDataError`, :class:`TrainingInterruptedError` after a signal, ``ValueError`` for settings that
    contradict one another.
    """
    return _Run(config, Path(output), resume, notify or tell_text).train(model, data, progress)


class _Run:
    """One call of :func:`run`."""

    def __init__(self, config: TrainingConfig, output: Path, resume: bool, notify: Callable[[str], None]) -> None:
        self.config, self.output = config, output
        self.arguments = training_arguments(config, output, steps=1)
        self.world, self.rank = self.arguments.world_size, self.arguments.process_index
        self.notify = notify if self.rank == 0 else _silent
        self.found = self._find(resume)

    def _find(self, resume: bool) -> Found:
        """Look for checkpoints. Raises :class:`TrainingError` for another run's, and where ``resume`` is not set."""
        with self.arguments.main_process_first(local=False):
            if self.rank == 0:
                self.output.mkdir(parents=True, exist_ok=True)
                remove_leftovers(self.output)
            found = find(self.output)
        if not resume and (found.newest or found.passed_over or (self.output / MODEL).exists()):
            raise TrainingError(
                f"{self.output} holds a run already: go on with it with --resume, or name another folder with --output"
            )
        for message in found.passed_over:
            self.notify(f"passed over {message}")
        if found.newest is not None:
            self._check_same_run(found.newest, found.facts)
        return found

    def _check_same_run(self, checkpoint: Path, facts: Facts) -> None:
        try:
            before = plain(made(TrainingConfig, facts["config"]))  # which may have the names of an earlier version
        except ValueError as error:
            raise TrainingError(
                f"{checkpoint} was written with a configuration that cannot be read: {error}"
            ) from error
        changed = differences(before, plain(self.config))
        changed = {
            name: values
            for name, values in changed.items()
            if name not in FREE_TO_CHANGE and name.partition(".")[0] != "validation"
        }
        if changed:
            listed = "; ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in changed.items())
            raise TrainingError(
                f"{checkpoint} is of a run with other settings: {listed}. Give it the settings it had, or begin a new "
                f"run from its weights: --set model={checkpoint} with another --output"
            )
        if facts["processes"] != self.world:
            raise TrainingError(
                f"{checkpoint} is of a run on {facts['processes']} processes and this one has {self.world}: samples "
                "would come in another order"
            )

    def _check_same_records(self, files: OpenFiles | None) -> None:
        """Raise :class:`TrainingError` where files hold other records than when the run began: their order would
        change."""
        self.records = {} if files is None else files.counts
        before = self.found.facts.get("records") or self.records
        if self.found.newest is not None and before != self.records:
            told = [
                f"{name.partition(' ')[2]} had {n} records and now has {self.records.get(name, 0)}"
                for name, n in before.items()
                if self.records.get(name) != n
            ]
            raise TrainingError(
                f"{self.found.newest} is of a run on other records: {'; '.join(told) or 'there are more files now'}. "
                "Bring back the files it had, or begin a new run from its weights"
            )

    def train(self, model: TrainingModel | None, data: TrainingData | None, progress: bool) -> TrainingResult:
        torch.manual_seed(self.config.seed)  # for fresh weights, such as adapters
        load_models_whole()  # DeepSpeed divides the model when the Trainer begins
        files = open_files(self.config) if data is None else None
        self._check_same_records(files)
        model = model or load_model_to_train(self.config)
        if self.config.gradient_checkpointing:
            enable_checkpointing(model.model)
        trained = freeze(model.module, self.config.learning_rates, adapters=self.config.lora is not None)
        own, held_out = (None, None) if files is None else (files.training, files.validation)
        data = data or load_data(self.config, model, self.output, rank=self.rank, world=self.world, files=own)
        measured = load_validation(self.config, model, held_out)
        trainer = self._trainer(model, data, progress)
        weights = self._average(trainer)
        if self.config.validation is not None:
            settings = self.config.validation
            trainer.add_callback(Validation(trainer, settings, measured, self.output, self.notify, weights))
        with stopping_on_signals() as stop, no_progress_bars():
            trainer.add_callback(StopOnSignal(stop, trainer.accelerator.gather))
            keep = self.config.save_total_limit
            writer = CheckpointWriter(self.output, keep, trainer.accelerator, trainer.checkpoint_facts)
            trainer.add_callback(writer)  # the last one, since the others may ask for a checkpoint
            with writer.explaining():
                trainer.train(resume_from_checkpoint=self._resumed(trainer))
            self._check_finished(trainer, stop)
            with weights():
                self._publish_model(trainer, model)
        return self._result(trainer, trained)

    def _average(self, trainer: VideoXLTrainer) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """Let the weights be averaged, where it is wanted; what puts the averages into the model."""
        if self.config.ema_decay is None:
            return contextlib.nullcontext
        trainer.average = WeightAverage(trainer.model, self.config.ema_decay)
        if self.found.newest is not None:
            trainer.average.load(self.found.newest)
        trainer.add_callback(trainer.average)
        return trainer.average.in_place

    def _trainer(self, model: TrainingModel, data: TrainingData, progress: bool) -> VideoXLTrainer:
        config, per_epoch = self.config, len(data.order(0, self.rank, self.world))
        batches = math.ceil(config.num_train_epochs * per_epoch)
        if config.max_steps is not None:
            batches = config.max_steps * config.gradient_accumulation_steps
        if self._had_ended():  # only the model is left to write
            batches = int(self.found.facts["step"]) * config.gradient_accumulation_steps
        trainer = VideoXLTrainer(
            model.module,
            training_arguments(config, self.output, math.ceil(batches / config.gradient_accumulation_steps)),
            config,
            dataset=data.dataset,
            collator=data.collator,
            order=RunOrder(lambda epoch: data.order(epoch, self.rank, self.world), batches, per_epoch=per_epoch),
            processor=model.processor,
            facts={"config": plain(config), "records": self.records},
        )
        for callback in (ProgressCallback, PrinterCallback):  # they print to stdout
            trainer.remove_callback(callback)
        trainer.add_callback(LogFile(self.output / "log.jsonl"))
        if progress:
            trainer.add_callback(ProgressLine())
        return trainer

    def _had_ended(self) -> bool:
        """Whether the checkpoint is one at which validation ended the run."""
        settings, newest = self.config.validation, self.found.newest
        if settings is None or newest is None:
            return False
        return Measurements.until(int(self.found.facts["step"]), settings, self.output).enough

    def _resumed(self, trainer: VideoXLTrainer) -> str | None:
        if self.found.newest is None:
            trainer.restore_counts({"step": 0})  # what a run listed that was killed before its first checkpoint
            return None
        trainer.restore_counts(self.found.facts)
        self.notify(f"going on from {self.found.newest.name}")
        return str(self.found.newest)

    def _check_finished(self, trainer: VideoXLTrainer, stop: Stop) -> None:
        step, steps = trainer.state.global_step, trainer.state.max_steps
        if stop.signal is not None and step < steps:
            raise TrainingInterruptedError(
                f"{signal.Signals(stop.signal).name} came: stopped after step {step} of {steps}, saved in "
                f"checkpoint-{step}; go on with --resume",
                signal=stop.signal,
            )

    def _publish_model(self, trainer: VideoXLTrainer, model: TrainingModel) -> None:
        """Publish the trained model in one step; adapters also by themselves."""
        facts = {"steps": trainer.state.global_step, "config": plain(self.config)}
        name = MODEL if self.config.lora is None else ADAPTERS
        staged = self.output / f"{STAGING}{name}"
        with writing(self.output, name, clean=self.rank == 0):
            trainer.save_model(str(staged))
            trainer.accelerator.wait_for_everyone()
            if self.rank == 0:
                publish(staged, self.output / name, facts)
        if self.config.lora is not None and self.rank == 0:
            staged = self.output / f"{STAGING}{MODEL}"
            with writing(self.output, MODEL, clean=True):
                merge_adapters(self.config, self.output / ADAPTERS, staged, model.processor)
                publish(staged, self.output / MODEL, facts)
        trainer.accelerator.wait_for_everyone()

    def _result(self, trainer: VideoXLTrainer, trained: list[str]) -> TrainingResult:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return TrainingResult(
            model=self.output / MODEL,
            steps=trainer.state.global_step,
            loss=losses[-1] if losses else None,
            log=list(trainer.state.log_history),
            trained=tuple(trained),
            skipped_steps=trainer.guard.skipped,
            bad_samples=trainer.bad_samples.bad,
            passed_over=self.found.passed_over,
            best=self.output / BEST if (self.output / BEST).is_dir() else None,
        )


def _silent(message: str) -> None:
    pass
