"""Everything undocumented that training uses of transformers, wrapped in this one file.

Names, and why there is no public way:

* ``Trainer._clip_grad_norm``: callbacks are called before the optimizer steps, but are not told the gradient's norm.
  A step must be left out when the norm is not finite, and clipping has already spread a NaN over all gradients.
* ``Trainer._load_from_checkpoint``: where a checkpoint's weights are read on resuming. An objective holds the model
  one level deeper than the checkpoint's names say, and the Trainer would load nothing, with a warning.
* ``transformers.integrations.deepspeed.unset_hf_deepspeed_config``: ``TrainingArguments`` set a global configuration
  under which ``from_pretrained`` divides a model among processes; only this call takes it back.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config


class HookedTrainer(Trainer):
    """A Trainer that calls two methods with public names where it has private ones."""

    def clipped(self, model: nn.Module, norm: torch.Tensor | float | None) -> None:
        """Called when gradients were clipped, before the optimizer steps. ``norm``: before clipping, if known."""

    def load_weights(self, folder: Path) -> bool:
        """Called to read a checkpoint's weights when a run resumes; False leaves that to the Trainer."""
        return False

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor | float | None:
        norm: torch.Tensor | float | None = super()._clip_grad_norm(model)
        self.clipped(model, norm)
        return norm

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.load_weights(Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def load_models_whole() -> None:
    """Let ``from_pretrained`` read whole models, whatever ``TrainingArguments`` were made before."""
    unset_hf_deepspeed_config()
