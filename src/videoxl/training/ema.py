"""An average of the weights over the steps of a run (EMA), which is often better than the last of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from videoxl.errors import TrainingError

FILE = "ema.safetensors"
"""In a checkpoint."""


class WeightAverage(TrainerCallback):
    """Keeps ``average = decay * average + (1 - decay) * weight`` of every trained weight, in fp32.

    The average begins with the weights after the first step. Every process keeps its own, and all are the same.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average: dict[str, torch.Tensor] = {}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        for name, parameter in self._trained():
            value = parameter.detach().float()
            if name in self.average:
                self.average[name].lerp_(value, 1 - self.decay)
            else:
                self.average[name] = value.clone()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the averages stand in the model."""
        before = {name: parameter.detach().clone() for name, parameter in self._trained() if name in self.average}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(before)

    @torch.no_grad()
    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._trained():
            if name in values:
                parameter.copy_(values[name])

    def save(self, folder: Path) -> None:
        """Write the averages into a checkpoint's folder."""
        save_file({name: value.contiguous().cpu() for name, value in self.average.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Take up the averages of a checkpoint. Raises :class:`TrainingError` where it has none."""
        if not (folder / FILE).is_file():
            raise TrainingError(f"{folder} holds no {FILE}: it was written without ema_decay, so begin a new run")
        places = {name: parameter.device for name, parameter in self._trained()}
        held = load_file(folder / FILE)
        self.average = {name: value.to(places[name]) for name, value in held.items() if name in places}
