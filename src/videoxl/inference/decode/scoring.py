"""The same scores on a GPU, in few launches (see :mod:`videoxl.inference.decode.relevance`).

Keys and values of prefix and pooled video are laid out for all layers first. A layer then takes 16 kernels. The weights
are written out, as attention to each token is what is asked for.

Shapes: ``N`` query heads, ``K`` key/value heads, ``L`` tokens of text, ``M`` pooled tokens, ``S`` prefix,
pooled video and text, ``E`` head width.
"""

from __future__ import annotations

from typing import Any

import torch

from videoxl.memory.kv_cache import KVCache
from videoxl.memory.pooling import CoarseKV, lies_on_one_gpu
from videoxl.memory.question_room import QuestionRoom
from videoxl.model.fused import rotate_and_append
from videoxl.model.token_step import TokenStep
from videoxl.model.upload import to_device

SCORES_AT_ONCE = 1 << 26
"""Scores of one layer that are written out: 256 MB in float32."""


class ScoringRows:
    """Attention of text over prefix, pooled video and itself, noting where it goes: a ``TokenAttention``."""

    def __init__(
        self, step: TokenStep, cache: KVCache, level: CoarseKV, bias_M: torch.Tensor, length: int, rows: int
    ) -> None:
        """``bias_M``: what is added to scores with pooled tokens; ``rows``: the last ones, whose attention counts."""
        self.step, self.rows, self.length = step, rows, length
        self.prefix, self.pooled = level.layout.prefix_length, len(level)
        self.total = self.prefix + self.pooled + length
        model, device = step.language_model, step.device
        index = (-2 - torch.arange(self.pooled, device=device))[:, None]
        # where the question's own cache will stand, which is free until blocks are chosen; but for positions of three
        # dimensions, whose cache stands elsewhere
        room = level.room if level.positions is None else QuestionRoom()
        self.held, states = room.take(level.keys[0], len(cache.layers), self.total, self.total)
        self.states = states.keys_X1KSE, states.values_X1KSE
        prefixes = zip(*(layer.span(0, self.prefix) for layer in cache.layers))
        for which, pooled, each_1KSE, out_X1KSE in zip(
            ("keys", "values"), (level.keys, level.values), prefixes, self.states
        ):
            out_X1KSE[:, 0, :, : self.prefix].copy_(torch.cat(each_1KSE))
            place = out_X1KSE[:, 0, :, self.prefix : self.prefix + self.pooled]
            at: dict[str, Any] = {}
            if which == "keys" and level.positions is None:
                at["rotate_from"] = self.prefix
            elif which == "keys" and level.positions is not None:
                at["rotate_to"] = level.positions.held_3S
            model.gather_layers((), pooled, index, place, **at)
        self.counters = to_device(torch.tensor([0, self.total - length]), device)
        begin = self.total - length if level.positions is None else level.positions.next
        places = torch.arange(begin, begin + length, device=device)
        self.tables = torch.stack(model.rope_tables(places, device), 1)
        bias_LS = torch.zeros(length, self.total)
        bias_LS[:, self.prefix : -length] = bias_M
        bias_LS[:, -length:].masked_fill_(torch.ones(length, length, dtype=torch.bool).triu_(1), -torch.inf)
        self.bias_LS = to_device(bias_LS, device)
        self.video_XNM = torch.empty((len(cache.layers), step.heads, self.pooled), device=device)
        """Attention of the rows that count to pooled tokens, their mean."""
        self.heads_at_once = max(1, SCORES_AT_ONCE // (step.heads // step.kv_heads * length * self.total))
        """Key/value heads."""

    @staticmethod
    def serves(step: TokenStep, cache: KVCache, level: CoarseKV, length: int, total: int) -> bool:
        """Whether all is on one GPU, and the scores of a key/value head fit."""
        devices = {step.device, *(keys.device for keys in level.keys)}
        return lies_on_one_gpu(cache, tuple(devices)) and (
            step.heads // step.kv_heads * length * total <= SCORES_AT_ONCE
        )

    def attend(self, layer: int, states_LHE: torch.Tensor) -> torch.Tensor:
        step, length = self.step, self.length
        keys_1KSE, values_1KSE = (states[layer] for states in self.states)
        q_NLE = torch.empty((step.heads, length, step.width), device=step.device)
        rotate_and_append(states_LHE, self.tables, self.counters, keys_1KSE, values_1KSE, q_NLE.transpose(0, 1))
        keys_KSE, values_KSE = keys_1KSE[0, :, : self.total], values_1KSE[0, :, : self.total]
        out_LNE = states_LHE.new_empty((length, step.heads, step.width))
        q_KRE = q_NLE.view(step.kv_heads, -1, step.width)  # the rows of all query heads of a key/value head
        for begin in range(0, step.kv_heads, self.heads_at_once):
            some = slice(begin, begin + self.heads_at_once)
            out_NLE = self._attend_some(layer, some, q_KRE[some], keys_KSE[some], values_KSE[some])
            out_LNE[:, self._queries_of(some)].copy_(out_NLE.transpose(0, 1))
        return out_LNE.view(length, -1)

    def _attend_some(
        self, layer: int, some: slice, q_KRE: torch.Tensor, keys_KSE: torch.Tensor, values_KSE: torch.Tensor
    ) -> torch.Tensor:
        """Attention ``[N, L, E]`` in float32 of some key/value heads, noting where it goes."""
        scores_NLS = torch.bmm(q_KRE, keys_KSE.float().transpose(1, 2)).view(-1, self.length, self.total)
        weights_NLS = torch.add(self.bias_LS, scores_NLS, alpha=self.step.width**-0.5, out=scores_NLS).softmax(-1)
        video_NLM = weights_NLS[:, -self.rows :, self.prefix : self.prefix + self.pooled]
        torch.mean(video_NLM, 1, out=self.video_XNM[layer, self._queries_of(some)])
        out_KRE = torch.bmm(weights_NLS.view(len(q_KRE), -1, self.total), values_KSE.float())
        return out_KRE.view(-1, self.length, self.step.width)

    def _queries_of(self, some: slice) -> slice:
        """The query heads of some key/value heads."""
        each = self.step.heads // self.step.kv_heads
        return slice(some.start * each, some.stop * each)

    def masses(self, members_GP: torch.Tensor) -> torch.Tensor:
        """Attention to each group's pooled tokens ``[heads of all layers, G]``; ``members_GP``: padded with ``M``."""
        video_HM = self.video_XNM.flatten(0, 1)
        members = to_device(members_GP, video_HM.device)
        # by gathering, a zero behind: sums in a fixed order
        return torch.nn.functional.pad(video_HM, (0, 1))[:, members].sum(-1)
