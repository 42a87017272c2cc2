"""The loss of phases that are read through beacons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from recipes.tiny.learning import AUX_WEIGHT, TIMES, aux_heads, finder_of, share_of_answers
from recipes.tiny.phases import AUX_TARGETS, SEEN
from videoxl.model.beacon import BeaconPlan, GradientCache
from videoxl.training.objectives.objective import Objective

BEACON_AUX_TARGETS = (*(aux_target for aux_target in AUX_TARGETS if aux_target not in TIMES), *SEEN)
"""What beacons must know. Their model is told no times."""

Read = tuple[BeaconPlan, torch.Tensor]
"""A step, and what came to the layer behind the middle, ``[1, L, D]``."""


class BeaconLearning(Objective):
    """Answers, which beacons they are read from, and what those must know.

    Where a film is read in full, auxiliary targets say what a token must know and where an answer is found
    (:class:`~recipes.tiny.learning.AnswerLearning`). Beacons are told the same: as they come to the layer
    behind the middle, they must tell what is shown by the tokens that they stand for, what was shown before and how
    many shapes so far; and there one head of every key head has to look at a beacon of what is asked for. From answers
    alone beacons keep what tells the things of a film apart, which is little of a shape.
    """

    def __init__(self, model: Any, *, aux_weight: float = AUX_WEIGHT) -> None:
        super().__init__(model)
        self.weight = aux_weight
        self.heads = aux_heads(model, BEACON_AUX_TARGETS)

    def forward(
        self,
        aux_targets: torch.Tensor,
        attention_targets: torch.Tensor,
        attention_target_masks: torch.Tensor,
        segments: torch.Tensor | None = None,
        kinds: Any = None,
        **batch: Any,
    ) -> Any:
        """``loss``, and for the log its parts. As :class:`~recipes.tiny.phases.FilmCollator` gives them:

        Args:
            aux_targets: ``[B, L, aux_targets]``, -1 where nothing must be known.
            attention_targets: row and place of every token that is followed by one of an answer, ``[N, 2]``.
            attention_target_masks: bool ``[N, L]``, the tokens that each can be read from.
            segments, kinds: for phases that count right answers; not read here.
        """
        steps: list[Read] = []

        def keep(module: nn.Module, arguments: tuple[torch.Tensor, BeaconPlan]) -> None:
            hidden, plan = arguments
            steps.append((plan, hidden))

        listening = finder_of(self.model).register_forward_pre_hook(keep)
        try:
            output = self.model(**batch)
        finally:
            listening.remove()
        elsewhere: list[torch.Tensor] = []
        known: list[tuple[torch.Tensor, torch.Tensor]] = []
        for row, read in enumerate(_rows(steps)):
            mine = attention_targets[:, 0] == row
            elsewhere += self._attention_losses(read, attention_targets[mine, 1], attention_target_masks[mine])
            known += [
                self._known(running, hidden, aux_targets[row]) for running, hidden in read if running.step.beacons
            ]
        losses = self._aux_losses(known)
        if elsewhere:  # counts, and what is not there, are found nowhere
            losses["look"] = torch.cat(elsewhere).mean()
        share = share_of_answers(batch["labels"], batch.get("num_items_in_batch"))
        self.log_losses({**losses, "answers": output.loss / share})
        output.loss = output.loss + self.weight * share * torch.stack(list(losses.values())).sum()
        return output

    def _known(
        self, running: BeaconPlan, hidden: torch.Tensor, aux_targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Beacons of a window ``[beacons, D]``, and what they must know: what the last of their tokens must that must
        know something."""
        _, of = stood_for(running, aux_targets)
        last = (of >= 0).long() * torch.arange(1, of.shape[1] + 1)[:, None]
        return hidden[0, running.slots], of.gather(1, last.argmax(1, keepdim=True))[:, 0]

    def _aux_losses(self, known: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        beacons, wanted = torch.cat([k for k, _ in known]).float(), torch.cat([w for _, w in known])
        columns = (*AUX_TARGETS, *SEEN)
        return {
            name: F.cross_entropy(head(beacons), wanted[:, columns.index(name)], ignore_index=-1)
            for name, head in self.heads.items()
        }

    def _attention_losses(
        self, read: list[Read], places: torch.Tensor, attention_target_masks: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        """How little of the attention of one film's answers goes to a beacon that they can be read from."""
        finder, apply_rope = finder_of(self.model), read[-1][0].language_model.apply_rope
        cache = read[-1][0].cache
        assert isinstance(cache, GradientCache)
        keys = cache.layers[finder.layer_idx][0][0]
        wanted = torch.zeros(len(places), keys.shape[1], dtype=torch.bool)
        for running, _ in read:
            if running.step.beacons:
                beacons, of = stood_for(running, attention_target_masks.T)
                wanted[:, beacons] = of.any(1).T
        for running, hidden in read:
            step = running.step
            mine = (places >= step.begin) & (places < step.end) & wanted.any(1)
            if step.kind != "text" or not bool(mine.any()):
                continue
            rows = places[mine] - step.begin
            asking = finder.q_proj(hidden[0, rows]).unflatten(-1, (-1, finder.head_dim))
            asking = asking[:, :: finder.num_key_value_groups].transpose(0, 1)
            queries = apply_rope(asking[None], rows + step.past)[0]
            scores = torch.einsum("hnd,hld->nhl", queries, keys).float() * finder.scaling
            later = torch.arange(keys.shape[1]) > (rows + step.past)[:, None]
            share = scores.masked_fill(later[:, None], -torch.inf).log_softmax(-1)
            yield -share.masked_fill(~wanted[mine][:, None], -torch.inf).logsumexp(-1)


def _rows(steps: list[Read]) -> Iterator[list[Read]]:
    """The steps of one film after the other; each begins with its prefix."""
    begins = [number for number, (running, _) in enumerate(steps) if running.step.kind == "prefix"]
    for begin, end in zip(begins, [*begins[1:], len(steps)], strict=True):
        yield steps[begin:end]


def stood_for(running: BeaconPlan, of_tokens: torch.Tensor) -> tuple[slice, torch.Tensor]:
    """The beacons of a window: their places in the cache, and the values of the tokens that each stands for.

    Values go from ``[L, X]`` to ``[beacons, ratio, X]``.
    """
    step = running.step
    assert step.ratio is not None
    prefix, beacons, _ = step.kept
    last = prefix + beacons
    begin = step.begin + step.beacon_slots[0] - step.ratio
    tokens = of_tokens[begin : begin + step.beacons * step.ratio]
    return slice(last - step.beacons, last), tokens.unflatten(0, (step.beacons, step.ratio))
