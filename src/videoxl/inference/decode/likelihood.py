"""How likely the model found the tokens that were written: as it gave them, before penalties, constraints and draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class TokenChance:
    """A token that was written."""

    logprob: float
    """Natural log-probability."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids at this place and their log-probabilities, the best first."""


@dataclass(frozen=True)
class _Step:
    numbers: tuple[int, ...]
    logprobs_B: torch.Tensor
    top: tuple[torch.Tensor, torch.Tensor] | None
    """Values and ids ``[B, k]``."""


@dataclass
class Likelihoods:
    """Watches the tokens of one or several answers. Nothing waits for the device until :meth:`of` is called."""

    top: int = 0
    """How many of the likeliest tokens to keep at each place."""
    _steps: list[_Step] = field(default_factory=list)

    def __call__(self, numbers: Sequence[int], logits_BV: torch.Tensor, tokens_B: torch.Tensor) -> None:
        """One more token of each of some answers, ``[B]``, and the logits it was chosen from."""
        logprobs_BV = logits_BV.log_softmax(-1, dtype=torch.float32)
        chosen_B = logprobs_BV.gather(-1, tokens_B[:, None])[:, 0]
        best = logprobs_BV.topk(self.top, dim=-1) if self.top else None
        self._steps.append(_Step(tuple(numbers), chosen_B, best and (best.values, best.indices)))

    def of_all(self, count: int) -> list[list[TokenChance]]:
        """The tokens of answers 0 to ``count - 1``, in order."""
        found: list[list[TokenChance]] = [[] for _ in range(count)]
        if not self._steps:
            return found
        logprobs = iter(torch.cat([step.logprobs_B for step in self._steps]).tolist())
        tops = iter(self._tops())
        for step in self._steps:
            for number in step.numbers:
                found[number].append(TokenChance(next(logprobs), next(tops, ())))
        return found

    def _tops(self) -> list[tuple[tuple[int, float], ...]]:
        kept = [step.top for step in self._steps if step.top is not None]
        if not kept:
            return []
        values, ids = (torch.cat(parts).tolist() for parts in zip(*kept))
        return [tuple(zip(row_ids, row_values)) for row_ids, row_values in zip(ids, values)]
