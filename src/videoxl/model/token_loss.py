"""The loss of the next token, from hidden states: logits exist only where a label does, and a few rows at a time.

A vocabulary of 152,064 makes 0.6 MB of fp32 logits a token, and their gradient as much again. Most tokens of a video
carry no label. Where many do, logits of :data:`ROWS` rows are computed, reduced, and computed again in the backward
pass, so that memory does not grow with the answer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

IGNORED = -100
ROWS = 512
"""Rows whose logits exist at one time: 0.3 GB in fp32 for Qwen2's vocabulary."""


def token_losses(head: nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row's target, fp32 ``[N]``. ``head`` makes logits ``[N, V]`` of hidden states."""
    if len(hidden_ND) <= ROWS:
        return _losses(head, hidden_ND, targets_N)
    parts = []
    for hidden, targets in zip(hidden_ND.split(ROWS), targets_N.split(ROWS)):
        if torch.is_grad_enabled():
            parts.append(checkpoint(_losses, head, hidden, targets, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_losses(head, hidden, targets))
    return torch.cat(parts)


def _losses(head: nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    logits_NV = head(hidden_ND).float()
    return F.cross_entropy(logits_NV, targets_N.to(logits_NV.device), reduction="none")


def next_token_loss(
    head: nn.Module, hidden_BLD: torch.Tensor, labels_BL: torch.Tensor, num_items: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Mean loss over the live labels of ``[B, L]``, or their sum over ``num_items``; 0 where none is live.

    Labels align with the tokens: the hidden state before a label predicts it.
    """
    return next_token_losses(head, hidden_BLD, labels_BL, num_items)[0]


def next_token_losses(
    head: nn.Module,
    hidden_BLD: torch.Tensor,
    labels_BL: torch.Tensor,
    num_items: torch.Tensor | int | None = None,
    sequences_BL: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`next_token_loss`, and the sum of every row's losses ``[B]`` without gradient; of every sequence's, where
    ``sequences_BL`` numbers those of the rows."""
    hidden, targets, live = live_rows(hidden_BLD, labels_BL)
    losses = token_losses(head, hidden, targets)
    if sequences_BL is None:
        rows, count = live.nonzero()[:, 0], len(labels_BL)
    else:
        rows, count = sequences_BL[:, 1:][live.to(sequences_BL.device)], int(sequences_BL[-1, -1]) + 1
    sums = losses.new_zeros(count).index_add(0, rows.to(losses.device), losses.detach())
    if num_items is None:
        return losses.sum() / max(len(losses), 1), sums
    return losses.sum() / (num_items.to(losses.device) if isinstance(num_items, torch.Tensor) else num_items), sums


def live_rows(states_BLD: torch.Tensor, labels_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What predicts a live label ``[N, D]``, the labels ``[N]``, and where they are: bool ``[B, L - 1]``."""
    following = labels_BL[:, 1:]
    live = following != IGNORED
    return states_BLD[:, :-1][live.to(states_BLD.device)], following[live], live
