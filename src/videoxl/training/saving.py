"""Writes checkpoints through the Trainer's callbacks: under a hidden name first, and what goes wrong is explained."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from videoxl.errors import TrainingError
from videoxl.training.checkpoints import STAGING, Facts, newest_checkpoint, publish, rotate


class CheckpointWriter(TrainerCallback):
    """Redirects the Trainer to a hidden folder for a checkpoint, and publishes the folder when it is written.

    It must be the last of the callbacks: the others may ask for a checkpoint at the end of a step.
    """

    def __init__(self, output: Path, keep: int, accelerator: Accelerator, facts: Callable[[], Facts]) -> None:
        """``output``: the run's folder. ``keep``: how many checkpoints stay. ``facts``: gives what the marker holds."""
        self.output, self.keep, self.accelerator, self.facts = output, keep, accelerator, facts
        self._writing: str | None = None

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        """Prepare for a checkpoint, if there will be one. Raises :class:`TrainingError` for weights not finite."""
        if not control.should_save:
            return
        if model is not None:
            require_finite_weights(model, state.global_step, self.output)
        self._writing = f"checkpoint-{state.global_step}"
        args.output_dir = str(self.output / f"{STAGING}{self._writing}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Give the checkpoint its marker and its name, then remove old ones."""
        name, staged = f"checkpoint-{state.global_step}", Path(args.output_dir)
        self.accelerator.wait_for_everyone()
        if args.should_save:
            publish(staged / name, self.output / name, self.facts())
            shutil.rmtree(staged)
            rotate(self.output, self.keep)
        self._writing, args.output_dir = None, str(self.output)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Explains errors of a training run that come while a checkpoint is written."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if self._writing is None:
                raise
            raise not_written(self.output, self._writing, error, clean=self.accelerator.is_main_process) from error


@contextmanager
def writing(output: Path, name: str, *, clean: bool) -> Iterator[None]:
    """Explains what goes wrong while ``output/name`` is written; ``clean``: this process removes what was staged."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise not_written(output, name, error, clean=clean) from error


def not_written(output: Path, name: str, error: Exception, *, clean: bool) -> TrainingError:
    """The error for a folder that could not be written, after what was staged of it has been removed."""
    if clean:
        shutil.rmtree(output / f"{STAGING}{name}", ignore_errors=True)
    return TrainingError(
        f"{name} was not written ({_first_line(error)}): make room, or see that {output} may be written to; "
        f"{newest_checkpoint(output)}"
    )


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Within, transformers draws no bars over ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def require_finite_weights(model: nn.Module, step: int, output: Path) -> None:
    """Raise :class:`TrainingError` unless all trained weights are finite.

    So a checkpoint, and with it the newest one kept, is always one to go on from.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(full_value(torch.isfinite(parameter.detach()).all())):
            raise TrainingError(
                f"{name} is not finite after step {step}: the update itself overflowed. Lower the learning rate; "
                f"{newest_checkpoint(output)}"
            )


def full_value(value: torch.Tensor) -> torch.Tensor:
    """A number that FSDP holds in parts, as one tensor."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _first_line(error: BaseException) -> str:
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error).strip()
    return text.partition("\n")[0] or type(error).__name__
