"""How the next token is chosen from its logits: the likeliest one, or a draw with a random state of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from videoxl.config import Generation


class LogitsProcessor(Protocol):
    """Sees the logits of each step, and may change them."""

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads ``new_ids``. Then every token is looked at before the next one is written."""
        ...

    def __call__(self, scores_BV: torch.Tensor, new_ids: Sequence[int], /) -> torch.Tensor:
        """``[B, V] -> [B, V]`` in float32, before penalties and sampling.

        ``new_ids``: the answer so far; without ``reads_tokens`` the last tokens of it may be missing.
        """
        ...


class TokenChoice:
    """The next token: the likeliest one, or one drawn with a private generator."""

    def __init__(
        self,
        settings: Generation,
        prompt_ids: Sequence[int],
        device: torch.device,
        vocabulary: int,
        processor: LogitsProcessor | None = None,
    ) -> None:
        """``vocabulary``: how many ids there are scores for; placeholders may lie beyond."""
        self.processor = processor
        self.sampler = SeededSampler(settings, device) if settings.do_sample else None
        penalty = settings.repetition_penalty or 1.0
        known = (token_id for token_id in prompt_ids if token_id < vocabulary)
        self.penalty = RepetitionPenalty(penalty, known, device) if penalty != 1.0 else None

    @property
    def is_plain(self) -> bool:
        """Whether it is the likeliest token, whatever came before."""
        return self.sampler is None and self.penalty is None and self.processor is None

    def __call__(self, logits_BV: torch.Tensor, new_ids: Sequence[int] = ()) -> torch.Tensor:
        """``[B, V] -> [B]``. ``new_ids``: the answer so far, for a processor that reads it."""
        if self.is_plain:
            return logits_BV.argmax(-1)
        scores = logits_BV.float()
        if self.processor is not None:
            scores = self.processor(scores, new_ids)
        if self.penalty is not None:
            scores = self.penalty(scores)
        token = (scores if self.sampler is None else self.sampler(scores)).argmax(-1)
        if self.penalty is not None:
            self.penalty.add(token)
        return token


class RepetitionPenalty:
    """Makes tokens that stand in prompt or answer less likely: positive scores are divided, others multiplied."""

    def __init__(self, penalty: float, prompt_ids: Iterable[int], device: torch.device) -> None:
        self.penalty = penalty
        self.seen = torch.tensor(sorted(set(prompt_ids)), device=device)

    def __call__(self, scores_BV: torch.Tensor) -> torch.Tensor:
        seen = self.seen.expand(len(scores_BV), -1)
        held = scores_BV.gather(1, seen)
        return scores_BV.scatter(1, seen, torch.where(held < 0, held * self.penalty, held / self.penalty))

    def add(self, tokens: torch.Tensor) -> None:
        """Count what was just chosen, ``[B]``."""
        self.seen = torch.cat([self.seen, tokens])


class SeededSampler:
    """Adds noise to scores so that their maximum is a draw from their distribution.

    Gumbel noise on log-probabilities does that. The noise comes from a generator of its own: the global random state
    is shared by other threads and calls.
    """

    def __init__(self, settings: Generation, device: torch.device) -> None:
        self.warpers = LogitsProcessorList()
        if settings.temperature is not None:
            self.warpers.append(TemperatureLogitsWarper(float(settings.temperature)))
        if settings.top_k is not None:
            self.warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p is not None:
            self.warpers.append(TopPLogitsWarper(float(settings.top_p)))
        self.generator = torch.Generator(device).manual_seed(settings.seed)

    def __call__(self, scores_BV: torch.Tensor) -> torch.Tensor:
        no_ids = torch.empty((len(scores_BV), 0), dtype=torch.long)  # none of the warpers looks at them
        scores = self.warpers(no_ids, scores_BV).float()
        uniform = torch.rand(scores.shape, generator=self.generator, device=scores.device)
        noisy: torch.Tensor = scores - torch.log(-torch.log(uniform.clamp_min(1e-20)))
        return noisy
