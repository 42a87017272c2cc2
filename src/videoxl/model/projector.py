"""From vision width to language width, and the 2x2 pooling behind it (`mlp2x_gelu`; SPEC 2.1, 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def pool_grid(x_GPD: torch.Tensor, side: int, stride: int, mode: Literal["average", "max"]) -> torch.Tensor:
    """Pool a square grid of tokens: ``[G, side^2, D] -> [G, (side // stride)^2, D]``, row-major.

    An odd side drops its last row and column, as the released pooling does.
    """
    G, _, D = x_GPD.shape
    x_GDHW = x_GPD.reshape(G, side, side, D).permute(0, 3, 1, 2)
    pool = F.avg_pool2d if mode == "average" else F.max_pool2d
    return pool(x_GDHW, stride).permute(0, 2, 3, 1).flatten(1, 2)


class Projector(nn.Sequential):
    """Linear, exact GELU, Linear. Kept a ``Sequential`` of three so that the released names ``0`` and ``2`` hold."""

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__(nn.Linear(vision_width, text_width), nn.GELU(), nn.Linear(text_width, text_width))

    def project_and_pool(
        self, x_GPC: torch.Tensor, side: int, stride: int, mode: Literal["average", "max"]
    ) -> torch.Tensor:
        """``[G, side^2, C] -> [G, (side // stride)^2, D]``.

        The released order is project, then pool. A mean commutes with the last linear layer, so averaging before it
        is the same function at a quarter of the work; a maximum does not.
        """
        if mode == "max":
            return pool_grid(self(x_GPC), side, stride, mode)
        tokens_GPD: torch.Tensor = self[2](pool_grid(self[1](self[0](x_GPC)), side, stride, mode))
        return tokens_GPD
