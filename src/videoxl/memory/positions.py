"""Positions of the tokens of a cache in three dimensions: time, height and width, where they are not their indices.

Text goes on in all three at once. The visual tokens of a picture share their time and count rows and columns from
there, so a picture of ``h x w`` tokens takes ``max(h, w)`` positions. Numbers only; rotating is the model's business.

Shapes: ``S`` tokens of a cache, ``L`` new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

Grid = tuple[int, int]
"""Rows and columns of the visual tokens of one picture."""


@dataclass(frozen=True)
class Positions:
    """Those of the first tokens of a cache. Whatever is appended behind them is text."""

    held_3S: torch.Tensor
    """On the host; whole numbers, or means of some (coarse KV)."""
    next: int
    """Of the token behind them, in all three dimensions."""

    def __len__(self) -> int:
        return self.held_3S.shape[1]

    @property
    def shift(self) -> int:
        """What is added to the index of a token behind them; 0 or less, as pictures take few positions."""
        return self.next - len(self)

    def at(self, index_L: torch.Tensor) -> torch.Tensor:
        """Positions ``[3, L]`` of tokens by their index, on the device of ``index_L``."""
        held = self.held_3S.to(index_L.device)
        if not len(self):
            return (index_L + self.shift).expand(3, -1)
        within = held[:, index_L.clamp(max=len(self) - 1)]
        return torch.where(index_L < len(self), within, (index_L + self.shift).to(within.dtype))

    def cut(self, length: int) -> Positions:
        """Those of the first ``length`` tokens; themselves where there are no more."""
        return self if length >= len(self) else Positions.of(self.held_3S[:, :length])

    def without(self, head: int, begin: int, stop: int) -> tuple[Positions, int]:
        """Those of the tokens ``[0, head)`` and ``[begin, stop)``, the latter moved behind the former, and by how much.

        Both begin with text.
        """
        kept, rest = self.cut(head), self.held_3S[:, begin:stop]
        distance = int(rest[0, 0]) - kept.next
        return kept.followed_by(rest - distance), distance

    def followed_by(self, new_3L: torch.Tensor) -> Positions:
        """With those of further tokens behind them."""
        return Positions.of(torch.cat((self.held_3S, new_3L), dim=1))

    def grid(self, begin: int, end: int) -> Grid:
        """Rows and columns of the picture that the tokens ``[begin, end)`` are."""
        _, rows, columns = (self.held_3S[:, end - 1] - self.held_3S[:, begin] + 1).tolist()
        return int(rows), int(columns)

    @classmethod
    def of(cls, held_3S: torch.Tensor) -> Positions:
        """The next token comes behind all of them."""
        return cls(held_3S, int(held_3S.max()) + 1 if held_3S.shape[1] else 0)


NONE = Positions(torch.zeros((3, 0), dtype=torch.int64), 0)
"""Of an empty cache."""


def positions_of(ids: Sequence[int], visual_ids: Sequence[int], grid: Grid, begin: int) -> torch.Tensor:
    """Positions ``[3, L]`` of text and pictures of one size, the first of them at ``begin``.

    Every run of ``visual_ids`` is a picture. Raises ``ValueError`` for one of another number of tokens than ``grid``.
    """
    visual = torch.isin(torch.tensor(list(ids), dtype=torch.int64), torch.tensor(list(visual_ids)))
    edges = [0, *((visual[1:] != visual[:-1]).nonzero()[:, 0] + 1).tolist(), len(visual)]
    rows, columns = grid
    parts, at = [torch.zeros((3, 0), dtype=torch.int64)], begin
    for first, end in pairwise(edges):
        if first == end:
            continue
        if not visual[first]:
            parts.append(torch.arange(at, at + end - first).expand(3, -1))
            at += end - first
            continue
        if end - first != rows * columns:
            raise ValueError(f"a picture of {rows} x {columns} tokens has {end - first} placeholders in the prompt")
        within = torch.arange(rows * columns)
        parts.append(at + torch.stack((torch.zeros_like(within), within // columns, within % columns)))
        at += max(rows, columns)
    return torch.cat(parts, dim=1)
