"""How likely the model found the tokens that were written: as it gave them, before penalties, constraints and draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import torch

from videoxl.errors import DoesNotFitError
from videoxl.model.attention import Pair


@dataclass(frozen=True)
class TokenChance:
    """A token that was written."""

    logprob: float
    """Natural log-probability."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids at this place and their log-probabilities, the best first."""


STEPS_AT_ONCE = 8
"""Steps whose logits are kept until they are looked at together: few large kernels instead of many small ones."""


@dataclass
class Likelihoods:
    """Watches the tokens of one or several answers (a :data:`~videoxl.inference.decode.loop.Record`).

    Nothing waits for the device until :meth:`of_all` is called.
    """

    top: int = 0
    """How many of the likeliest tokens to keep at each place."""
    _numbers: list[int] = field(default_factory=list)
    """The answer of every token."""
    _waiting: list[Pair] = field(default_factory=list)
    """Logits ``[B, V]`` and tokens ``[B]`` of steps."""
    _logprobs: list[torch.Tensor] = field(default_factory=list)
    _top: list[Pair] = field(default_factory=list)
    """Values and ids ``[P, k]`` of ``P`` tokens."""

    def __call__(self, numbers: Sequence[int], logits_BV: torch.Tensor, tokens_B: torch.Tensor) -> None:
        """One more token of each of some answers, ``[B]``, and the logits it was chosen from, which must stay."""
        self._numbers += numbers
        self._waiting.append((logits_BV, tokens_B))
        if len(self._waiting) == STEPS_AT_ONCE:
            self._look()

    def of_all(self, count: int) -> list[list[TokenChance]]:
        """The tokens of answers 0 to ``count - 1``, in order. Raises :class:`DoesNotFitError`."""
        try:
            self._look()
        except torch.OutOfMemoryError as error:
            raise DoesNotFitError(
                f"the GPU ran out of memory for the likelihoods of {count} answers at once: ask fewer together"
            ) from error
        found: list[list[TokenChance]] = [[] for _ in range(count)]
        if self._numbers:
            tops = self._tops() if self.top else repeat(())
            for number, logprob, top in zip(self._numbers, torch.cat(self._logprobs).tolist(), tops):
                found[number].append(TokenChance(logprob, top))
        return found

    def _look(self) -> None:
        """Log-probabilities of what is waiting."""
        if not self._waiting:
            return
        logits_PV, tokens_P = (torch.cat(parts) for parts in zip(*self._waiting))
        self._waiting.clear()
        logprobs_PV = logits_PV.log_softmax(-1, dtype=torch.float32)
        self._logprobs.append(logprobs_PV.gather(-1, tokens_P[:, None])[:, 0])
        if self.top:
            best = logprobs_PV.topk(self.top, dim=-1)
            self._top.append((best.values, best.indices))

    def _tops(self) -> Iterator[tuple[tuple[int, float], ...]]:
        values, ids = (torch.cat(parts).tolist() for parts in zip(*self._top))
        return (tuple(zip(row_ids, row_values)) for row_ids, row_values in zip(ids, values))
