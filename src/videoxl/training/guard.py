"""Keeps steps whose loss or gradient norm is not finite away from the weights. Works on numbers, not tensors.

A loss can be finite where the gradient is not (the square root at 0), and clipping by the norm turns one NaN into a
gradient of NaN. Both are therefore checked after the norm is known and before the optimizer steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from videoxl.errors import TrainingError


@dataclass
class StepGuard:
    """Counts the steps that were skipped, and ends a run that has too many."""

    in_a_row_limit: int
    share_limit: float
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    in_a_row: int = 0
    empty: int = 0
    """Steps without a single supervised token: every sample failed, or nothing in them was to be learnt."""

    def judge(self, *, finite: bool, supervised: bool, step: int, steps: int, newest: str) -> bool:
        """Whether the optimizer may step. ``step`` counts from 1; ``newest`` is where to go on from.

        Raises :class:`TrainingError` when there have been too many.
        """
        if finite:
            self.in_a_row = 0
            self.empty += not supervised
            return supervised
        self.skipped += 1
        self.in_a_row += 1
        limit = max(self.in_a_row_limit, math.ceil(self.share_limit * steps))
        if self.in_a_row >= self.in_a_row_limit:
            count = f"{self.in_a_row} steps in a row"
        elif self.skipped > limit:
            count = f"{self.skipped} of {step} steps, more than {limit},"
        else:
            return False
        raise TrainingError(
            f"{count} had a loss or gradient that is not finite (NaN or infinite), the last of them step {step}; they "
            f"did not touch the weights. Lower the learning rate, or look at the data of these steps; {newest}"
        )

    def state(self) -> dict[str, int]:
        """Counts, to be kept with a checkpoint."""
        return {name: value for name, value in asdict(self).items() if not name.endswith("_limit")}

    def restore(self, state: Mapping[str, int]) -> None:
        """Counts of a checkpoint."""
        for name in self.state():
            setattr(self, name, int(state.get(name, 0)))
