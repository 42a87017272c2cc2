"""Muon for matrices, AdamW for everything else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon (Jordan et al., 2024) and AdamW side by side, under one schedule.

    Muon is meant for the matrices inside layers. It makes their updates orthogonal, at the size AdamW's would have;
    small models learn to look things up in fewer steps with it.

    Args:
        muon, adamw: groups of parameters with ``lr`` and ``weight_decay``; either may be empty.
        betas: of AdamW.
        share: of a group's rate, what Muon's is.
    """

    def __init__(
        self,
        muon: Sequence[dict[str, Any]],
        adamw: Sequence[dict[str, Any]],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        share: float = 0.5,
    ) -> None:
        self.parts: list[torch.optim.Optimizer] = []
        if muon:
            scaled = [{**group, "lr": share * group["lr"]} for group in muon]
            self.parts.append(torch.optim.Muon(scaled, adjust_lr_fn="match_rms_adamw"))
        if adamw:
            self.parts.append(torch.optim.AdamW(adamw, betas=betas))
        if not self.parts:
            raise ValueError("there is nothing to optimise: no weight is trained")
        super().__init__([{"params": group["params"]} for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The groups of the parts themselves: what a schedule sets here, they see."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


def muon_for(
    model: nn.Module,
    groups: Sequence[dict[str, Any]],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    share: float = 0.5,
) -> MuonAdamW:
    """Of ``groups``, the matrices inside rows of layers go to Muon, everything else to AdamW.

    Args:
        share: of a group's rate, what Muon's is.
    """
    inside = {id(p) for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in f".{name}"}
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for group in groups:
        for side, wanted in zip(sides, (True, False)):
            found = [p for p in group["params"] if (id(p) in inside) == wanted]
            if found:
                side.append({**group, "params": found})
    return MuonAdamW(*sides, betas=betas, share=share)
