"""The base of objectives other than the next token: a module around the model, with weights of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from videoxl.model.configuration import VideoXLConfig

PREFIX = "model."
"""How the names of the model's weights begin among those of an objective."""


def no_loss(model: nn.Module) -> torch.Tensor:
    """A loss of 0 that every trained weight is part of, for a batch without a usable sample: with several processes all
    have to take part in every backward pass."""
    sums = [parameter.sum() * 0.0 for parameter in model.parameters() if parameter.requires_grad]
    return torch.stack([s.float() for s in sums]).sum()


def let_all_take_part(module: nn.Module) -> None:
    """Let every trained weight be part of every loss of ``module``, before anything else is, with a factor of 0.

    Where processes add up gradients by the order in which they are complete, or all gather and reduce the same ones,
    each must have a gradient of every weight, whatever its batch holds, and complete them in one order. What comes
    first in the forward pass comes last in the backward pass: so gradients are complete at its end, in the order of
    the weights. It must be called when the module was prepared: weights are whole behind the hooks that gather
    them.
    """
    parts: list[torch.Tensor] = []

    def begin(module: nn.Module, _: object) -> None:
        if torch.is_grad_enabled() and module.training:
            parts.append(no_loss(module))

    def end(_: nn.Module, __: object, output: ModelOutput) -> ModelOutput:
        if parts:
            output["loss"] = output["loss"] + parts.pop()
        return output

    module.register_forward_pre_hook(begin)
    module.register_forward_hook(end)


class Objective(nn.Module):
    """Trains ``model`` in its own way: ``forward`` takes a batch and returns a ``ModelOutput`` with ``loss``.

    What it has beyond the model, such as a decoder, is kept for resuming a run and is no part of the trained model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self._logged: dict[str, list[torch.Tensor]] = {}

    @property
    def config(self) -> VideoXLConfig:
        """The model's configuration."""
        config: VideoXLConfig = self.model.config
        return config

    def log_losses(self, output: Mapping[str, object]) -> None:
        """Keep the numbers of an output, but for the loss, for the log."""
        for name, value in output.items():
            if name != "loss" and isinstance(value, torch.Tensor) and value.ndim == 0:
                self._logged.setdefault(name, []).append(value.detach())

    def pop_logged(self) -> dict[str, float]:
        """Mean of each number kept since the last call."""
        means = {name: float(torch.stack(values).float().mean()) for name, values in self._logged.items()}
        self._logged.clear()
        return means

    def objective_state(self) -> dict[str, torch.Tensor]:
        """Everything that is not the model's, for :meth:`load_objective_state`."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(PREFIX)}

    def load_objective_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what :meth:`objective_state` gave. Raises ``ValueError`` when it is another objective's."""
        own = self.objective_state()
        if own.keys() != state.keys():
            raise ValueError(
                f"this state is of another objective: it holds {', '.join(sorted(state)) or 'nothing'}, not "
                f"{', '.join(sorted(own)) or 'nothing'}"
            )
        self.load_state_dict(state, strict=False)

    def save_pretrained(
        self, save_directory: str | Path, state_dict: dict[str, torch.Tensor] | None = None, **kwargs: object
    ) -> None:
        """Write the model alone, as it writes itself. ``state_dict``: weights to write, under this module's names."""
        if state_dict is not None:
            weights = state_dict.items()
            kwargs["state_dict"] = {n.removeprefix(PREFIX): w for n, w in weights if n.startswith(PREFIX)}
        self.model.save_pretrained(save_directory, **kwargs)


class LanguageTraining(Objective):
    """The next token, with nothing beyond the model: for FSDP, which divides a model's embeddings and head by
    themselves, and what is within this module as one."""

    def forward(self, **batch: object) -> ModelOutput:
        """The model's own output and loss."""
        output: ModelOutput = self.model(**batch)
        return output
