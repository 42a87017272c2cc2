"""Measures a run while it goes on: the loss on other data, the best model, an early end, and a command on the model."""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from transformers import BatchEncoding, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from videoxl.errors import TrainingDataError
from videoxl.json_lines import read_json_lines
from videoxl.training.checkpoints import STAGING, publish
from videoxl.training.config.training import SYNCHRONOUS, TrainingConfig
from videoxl.training.config.validation import ValidationConfig
from videoxl.training.data.batches import Batch, CollateFunction, RunOrder, SampleSource, data_loader
from videoxl.training.data.records import Records
from videoxl.training.saving import writing
from videoxl.training.setup import TrainingModel, load_samples
from videoxl.training.step_lines import append_line, keep_until

if TYPE_CHECKING:
    from videoxl.training.trainer import VideoXLTrainer

BEST, COMMANDS, LOG = "best", "commands", "validation.jsonl"
"""In the run's folder: the best model, what commands said, and a line for every measurement."""
Notify = Callable[[str], None]


@dataclass(frozen=True)
class ValidationData:
    """What a loss is measured on."""

    dataset: SampleSource[object]
    collator: CollateFunction

    def numbers(self, most: int | None, rank: int, world: int) -> list[list[int]]:
        """This process's samples, one in a batch; empty ones so that all processes have as many."""
        count = len(self.dataset) if most is None else min(most, len(self.dataset))
        own = [[number] for number in range(count)[rank::world]]
        return own + [[] for _ in range(math.ceil(count / world) - len(own))]


def load_validation(
    config: TrainingConfig, model: TrainingModel, files: Sequence[Records] | None = None
) -> ValidationData | None:
    """The data whose loss is measured, if there is any. ``files``: of its records, if they are open.

    Raises :class:`TrainingDataError` for unusable files.
    """
    if config.validation is None or not config.validation.measures:
        return None
    data = replace(config.data, sources=config.validation.all_sources(), mixture=None, feature_cache=None)
    return ValidationData(*load_samples(replace(config, data=data), model, files))


@dataclass
class Measurements:
    """The best of the losses so far, and how many behind it were no better."""

    settings: ValidationConfig
    best: float = math.inf
    waited: int = 0

    def add(self, loss: float) -> bool:
        """Count a loss. Whether it is the best so far."""
        if loss < self.best - self.settings.min_delta or (math.isinf(self.best) and math.isfinite(loss)):
            self.best, self.waited = loss, 0
            return True
        self.waited += 1
        return False

    @property
    def enough(self) -> bool:
        """Whether the run ends here."""
        return self.settings.patience is not None and self.waited >= self.settings.patience

    @classmethod
    def until(cls, step: int, settings: ValidationConfig, output: Path) -> Measurements:
        """Those that a run's folder lists up to a step."""
        found, path = cls(settings), output / LOG
        for _, entry in read_json_lines(path, TrainingDataError) if path.is_file() else ():
            loss, at = entry.get("loss"), entry.get("step")
            if isinstance(loss, int | float) and isinstance(at, int) and at <= step:
                found.add(float(loss))
        return found


class Validation(TrainerCallback):
    """Measures every ``steps`` steps and behind the last one; keeps the best model; may end the run."""

    def __init__(
        self,
        trainer: VideoXLTrainer,
        settings: ValidationConfig,
        data: ValidationData | None,
        output: Path,
        notify: Notify,
        weights: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """``weights``: within it, the weights that are to be measured stand in the model."""
        self.trainer, self.settings, self.data = trainer, settings, data
        self.output, self.notify, self.weights = output, notify, weights
        self.found = Measurements(settings)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Leave out the measurements behind the checkpoint that a run goes on from, and take up those before."""
        if state.is_world_process_zero:
            keep_until(state.global_step, self.output / LOG)
        self.trainer.accelerator.wait_for_everyone()
        self.found = Measurements.until(state.global_step, self.settings, self.output)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step % self.settings.steps and state.global_step < state.max_steps:
            return
        with self.weights():
            better = self._measure(state)
            if better:
                self._publish(BEST, {"step": state.global_step, "validation_loss": self.found.best})
            if self.settings.command:
                self._run_command(state)
        if self.found.enough:
            self.notify(
                f"ended after step {state.global_step:,}: {self.found.waited} measurements were no better than "
                f"{self.found.best:.4g}"
            )
            control.should_training_stop = control.should_save = True

    def _measure(self, state: TrainerState) -> bool:
        """Measure, log and judge. Whether it is the best so far."""
        if self.data is None:
            return False
        loss, count, bad = self._loss()
        if not count:
            raise TrainingDataError(f"none of the {bad} samples of validation could be used: {self._named(bad)}")
        found = {"validation_loss": loss, "validation_samples": count, "validation_bad_samples": bad}
        self.trainer.log({name: value for name, value in found.items() if value or name != "validation_bad_samples"})
        if state.is_world_process_zero:
            append_line(self.output / LOG, {"step": state.global_step, "loss": loss, "samples": count, "bad": bad})
        return self.found.add(loss)

    def _named(self, bad: int) -> str:
        lines = [entry for _, entry in read_json_lines(self.output / f"bad_{LOG}", TrainingDataError)]
        return f"{lines[-1]['id']} ({lines[-1]['reason']})" if lines else f"{bad} samples"

    @torch.no_grad()
    def _loss(self) -> tuple[float, int, int]:
        """Mean over supervised tokens (or samples, for other objectives), samples used, and bad ones, everywhere."""
        trainer, step = self.trainer, self.trainer.state.global_step
        synchronous = trainer.config.sharding in SYNCHRONOUS  # others may compute unequally often
        model = trainer.model_wrapped if synchronous else trainer.accelerator.unwrap_model(trainer.model_wrapped)
        was = model.training
        model.eval()
        total, weight, used, bad = (0.0, 0.0, 0, 0)
        try:
            for batch in self._batches():
                for name, reason in batch.get("bad_samples", ()):
                    bad += 1
                    entry = {"step": step, "id": name, "reason": reason}
                    append_line(self.output / f"bad_{LOG}", entry)
                used += "labels" in batch
                items, inputs = trainer.usable(batch)
                if inputs is None:
                    continue
                with trainer.compute_loss_context_manager():
                    loss = trainer.compute_loss(
                        model, BatchEncoding(inputs).to(trainer.args.device).data, num_items_in_batch=1
                    )
                total += float(cast(torch.Tensor, loss)) * (1 if trainer.loss_per_token else items)
                weight += items
        finally:
            model.train(was)
        sums = torch.tensor([total, weight, used, bad], dtype=torch.float64, device=trainer.args.device)
        if trainer.args.world_size > 1:
            sums = trainer.accelerator.reduce(sums, "sum")
        total, weight = float(sums[0]), float(sums[1])
        return total / max(weight, 1), int(sums[2]), int(sums[3])

    def _batches(self) -> Iterator[Batch]:
        args, data = self.trainer.args, self.data
        assert data is not None
        numbers = data.numbers(self.settings.max_samples, args.process_index, args.world_size)
        order = RunOrder(lambda epoch: numbers, len(numbers), per_epoch=len(numbers))
        workers = self.trainer.config.data.num_workers
        yield from data_loader(data.dataset, data.collator, order, workers=workers)

    def _publish(self, name: str, facts: dict[str, object]) -> Path:
        """Write the model as it is into the run's folder."""
        staged, main = self.output / f"{STAGING}{name}", self.trainer.args.should_save
        with writing(self.output, name, clean=main):
            self.trainer.save_model(str(staged))
            self.trainer.accelerator.wait_for_everyone()
            if main:
                publish(staged, self.output / name, facts)
        self.trainer.accelerator.wait_for_everyone()
        return self.output / name

    def _run_command(self, state: TrainerState) -> None:
        """Run the command on the first process. One that fails is told, and the run goes on."""
        step, name = state.global_step, f"model-at-{state.global_step}"
        folder = self._publish(name, {"step": step})
        if state.is_world_process_zero:
            words = [
                word.replace("{model}", str(folder)).replace("{step}", str(step)) for word in self.settings.command
            ]
            said = self.output / COMMANDS / f"{step}.txt"
            said.parent.mkdir(exist_ok=True)
            code: int | str
            try:
                with said.open("w", encoding="utf-8") as file:
                    code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
            except OSError as error:
                code = error.strerror or str(error)
            if code:
                self.notify(f"the command of validation failed after step {step:,} ({code}): see {said}")
            self.trainer.log({"validation_command": code if isinstance(code, int) else -1})
            shutil.rmtree(folder, ignore_errors=True)
        self.trainer.accelerator.wait_for_everyone()
