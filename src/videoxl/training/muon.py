"""Muon for matrices and AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

OptimizerGroup = dict[str, Any]
"""Parameters under ``params``, and what torch's optimizers set for them: ``lr``, ``weight_decay``."""


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon (Jordan et al., 2024) and AdamW side by side, under one schedule.

    Muon is meant for the matrices inside layers. It makes their updates orthogonal, at the size AdamW's would have;
    small models learn to look things up in fewer steps with it.

    Args:
        muon, adamw: groups of parameters with ``lr`` and ``weight_decay``; either may be empty.
        betas: decay rates of AdamW's averages.
        lr_ratio: Muon's rate, divided by the rate of the group.
    """

    def __init__(
        self,
        muon: Sequence[OptimizerGroup],
        adamw: Sequence[OptimizerGroup],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        lr_ratio: float = 0.5,
    ) -> None:
        self.optimizers: list[torch.optim.Optimizer] = []
        if muon:
            scaled = [{**group, "lr": lr_ratio * group["lr"]} for group in muon]
            self.optimizers.append(torch.optim.Muon(scaled, adjust_lr_fn="match_rms_adamw"))
        if adamw:
            self.optimizers.append(torch.optim.AdamW(adamw, betas=betas))
        if not self.optimizers:
            raise ValueError("there is nothing to optimise: no weight is trained")
        super().__init__([{"params": group["params"]} for each in self.optimizers for group in each.param_groups], {})
        self._link_groups()

    def _link_groups(self) -> None:
        """Use the groups of the two optimizers themselves, so that they see what a schedule sets here."""
        self.param_groups = [group for each in self.optimizers for group in each.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for each in self.optimizers:
            each.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [each.state_dict() for each in self.optimizers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for each, state in zip(self.optimizers, state_dict["parts"], strict=True):
            each.load_state_dict(state)
        self._link_groups()


def muon_for(
    model: nn.Module,
    groups: Sequence[OptimizerGroup],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    lr_ratio: float = 0.5,
) -> MuonAdamW:
    """An optimizer that gives the matrices inside layers to Muon, and everything else in ``groups`` to AdamW.

    Args:
        lr_ratio: Muon's rate, divided by the rate of the group.
    """
    inside = {id(p) for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in f".{name}"}
    sides: tuple[list[OptimizerGroup], list[OptimizerGroup]] = ([], [])
    for group in groups:
        for side, wanted in zip(sides, (True, False)):
            found = [p for p in group["params"] if (id(p) in inside) == wanted]
            if found:
                side.append({**group, "params": found})
    return MuonAdamW(*sides, betas=betas, lr_ratio=lr_ratio)
