"""Which visual tokens Video-XL-Pro keeps, and in which form the language model reads them (SPEC 4).

A visual token is scored by the prompt: what it gathers from its group's timestamp is compared with the prompt's words.
Scores join the embeddings of the tokens kept, so the language model sees them too.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

HEADS = 4
THETA = 1e6
KEEP_MULTIPLE = 16
"""The number of visual tokens kept is rounded down to a multiple of this."""


class TimeAttention(nn.Module):
    """Visual tokens attend to the timestamp of their own group: ``[G, P, D]``.

    Timestamps give the keys' side and the values alike, both through ``q_proj``; the queries are the visual tokens'
    ``k_proj``. ``v_proj`` is part of released files and of no computation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % HEADS:
            raise ValueError(f"token scores need a model width divisible by {HEADS}, got {width}")
        for name in "qkv":
            self.add_module(f"{name}_proj", nn.Linear(width, width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, visual_GPD: torch.Tensor, times_GTD: torch.Tensor, real_GT: torch.Tensor) -> torch.Tensor:
        """``times_GTD``: the embedded timestamps, padded to one length; ``real_GT`` (bool) says what is no padding."""
        looked_for = self._heads(cast(nn.Linear, self.k_proj)(visual_GPD))
        offered = self._heads(cast(nn.Linear, self.q_proj)(times_GTD))
        found = F.scaled_dot_product_attention(looked_for, offered, offered, attn_mask=real_GT[:, None, None])
        return cast(torch.Tensor, self.out_proj(found.transpose(1, 2).flatten(2)))

    def _heads(self, states_GLD: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = states_GLD.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        return states


class TokenScores(nn.Module):
    """Scores visual tokens by how well they go with a text: the released ``WindowTimeToTokenAttention`` and
    ``text_mlp``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = TimeAttention(width)
        self.text_mlp = nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(
        self, visual_GPD: torch.Tensor, times_GTD: torch.Tensor, real_GT: torch.Tensor, text_LD: torch.Tensor
    ) -> torch.Tensor:
        """Raw scores ``[G, P]`` in fp32: the mean over the text of dot products, groups independent of one another.

        The mean is taken before the product, which is the same and needs no ``[G, P, L]``.
        """
        text_D = self.text_mlp(text_LD).float().mean(0)
        gathered_GPD = self.attention(visual_GPD, times_GTD, real_GT)
        states: torch.Tensor = gathered_GPD.float() @ text_D.to(gathered_GPD.device)
        return states


def normalise_scores(scores_P: torch.Tensor) -> torch.Tensor:
    """To 0..1 over a whole video. Where all are equal all become 0: nothing stands out."""
    low, high = scores_P.min(), scores_P.max()
    return (scores_P - low) / (high - low).clamp_min(torch.finfo(scores_P.dtype).tiny)


def kept_count(visual_tokens: int, keep: float) -> int:
    """How many visual tokens stay: the share ``keep``, rounded down to a multiple of 16.

    The released rule gives 0 below 16 tokens, which no released model meets; here at least 16, or all, stay.
    """
    wanted = int(visual_tokens * keep) // KEEP_MULTIPLE * KEEP_MULTIPLE
    return max(wanted, min(KEEP_MULTIPLE, visual_tokens))


def select_tokens(scores_P: torch.Tensor, keep: float) -> torch.Tensor:
    """Bool ``[P]``: the :func:`kept_count` highest scores. Of equal ones the earlier stays, on every device."""
    order = scores_P.sort(descending=True, stable=True).indices
    kept = torch.zeros(len(scores_P), dtype=torch.bool, device=scores_P.device)
    kept[order[: kept_count(len(scores_P), keep)]] = True
    return kept


def rotate_pairs(embeds_PD: torch.Tensor, positions_P: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of neighbouring channels (2i, 2i + 1) over the whole width, in fp32, rounded once.

    ``positions_P``: index of each token in the visual span, dropped ones counted.
    """
    width = embeds_PD.shape[-1]
    rates = THETA ** (-torch.arange(0, width, 2, device=embeds_PD.device, dtype=torch.float32) / width)
    angles = positions_P.to(embeds_PD.device, torch.float32)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    even, odd = embeds_PD.float()[:, 0::2], embeds_PD.float()[:, 1::2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(1).to(embeds_PD.dtype)


def scored_embeddings(embeds_PD: torch.Tensor, positions_P: torch.Tensor, scores_P: torch.Tensor) -> torch.Tensor:
    """What the language model reads: tokens rotated to their place, with their score on every channel.

    ``scores_P``: 0 at timestamps, which carry none.
    """
    rotated = rotate_pairs(embeds_PD.float(), positions_P)
    return (rotated + scores_P.to(rotated)[:, None]).to(embeds_PD.dtype)
