"""Compare what training computes: the loss and the gradients of one step."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from videoxl.model.checkpoint import to_native
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.parity.golden import Case


def compare_gradients(case: Case, model: VideoXLForConditionalGeneration, loss: torch.Tensor) -> None:
    """Compare the loss, the gradient norm of every weight named, and the gradients recorded whole.

    A weight without a gradient has the norm 0.
    """
    gradients: dict[str, torch.Tensor | None] = {name: p.grad for name, p in model.named_parameters()}
    case.compare("loss", loss.detach().reshape(1))
    norms = [_norm(gradients[to_native(name)]) for name in case.spec["grad_norm_names"]]
    case.compare("grad_norms", norms)
    for array in case.spec["arrays"]:
        if array.startswith("grad/"):
            case.compare(array, _named_gradient(array.removeprefix("grad/"), gradients))


def _norm(gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.norm())


def _named_gradient(name: str, gradients: Mapping[str, torch.Tensor | None]) -> torch.Tensor | None:
    """A gradient as cases name it: ``weight``, or ``weight_rows_3_to_5`` for some of its rows."""
    rows = re.fullmatch(r"(.+)_rows_(\d+)_to_(\d+)", name)
    if rows is None:
        return gradients[to_native(name)]
    whole = gradients[to_native(rows[1])]
    return None if whole is None else whole.narrow(0, int(rows[2]), int(rows[3]) + 1 - int(rows[2]))
