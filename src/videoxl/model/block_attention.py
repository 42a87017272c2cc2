"""The attention of chunked prefill over a whole sequence at once, for training: no mask of all tokens against all.

Every token has a block: a number for visual tokens, -1 for text and timestamps. A token sees an earlier one unless both
are visual and their blocks lie further apart than ``previous_blocks`` (SPEC 3.6). So the rows of a block see the open
tokens from before their window and then everything from the window on, which in that order is causal, aligned at the
end; open rows see everything before them. Each is a call of the ordinary causal kernel.

A row may hold several sequences, one behind the other. Each begins at position 0, and sees itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from videoxl.model.attention import AttentionLayer, Pair, causal_attention, rotate

OPEN = -1
"""Block of a token that sees everything before it, and that everything behind it sees."""


@dataclass(frozen=True)
class Rows:
    """Rows ``[begin, end)`` that see the first ``open_tokens`` open ones, then ``[window, end)``, causally."""

    begin: int
    end: int
    window: int
    open_tokens: int


@dataclass(frozen=True)
class BlockRows:
    """The calls of one sequence, and where each of its rows is found among their outputs."""

    calls: tuple[Rows, ...]
    open_places: torch.Tensor
    """Places of the open tokens, ascending."""
    order: torch.Tensor
    """``[L]``: the row's place in the outputs of all calls, one behind the other."""


def block_rows(blocks: Sequence[int], previous_blocks: int) -> BlockRows:
    """Plan the rows of one sequence. Raises ``ValueError`` for blocks that do not go up."""
    length = len(blocks)
    open_before = [0]
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for at, block in enumerate(blocks):
        open_before.append(open_before[-1] + (block < 0))
        if block >= 0:
            if last and block < max(last):
                raise ValueError(f"blocks must go up, got {block} behind {max(last)} at {at}")
            first.setdefault(block, at)
            last[block] = at
    calls: list[Rows] = []
    order, done = [0] * length, 0
    for block, begin in first.items():
        end = last[block] + 1
        window = first[min(seen for seen in first if seen >= block - previous_blocks)]
        calls.append(Rows(begin, end, window, open_before[window]))
        order[begin:end] = range(done, done + end - begin)
        done += end - begin
    begin = 0
    while begin < length:
        if blocks[begin] >= 0:
            begin += 1
            continue
        end = begin
        while end < length and blocks[end] < 0:
            end += 1
        calls.append(Rows(begin, end, 0, 0))
        order[begin:end] = range(done, done + end - begin)
        done += end - begin
        begin = end
    places = [at for at, block in enumerate(blocks) if block < 0]
    return BlockRows(tuple(calls), torch.tensor(places, dtype=torch.long), torch.tensor(order, dtype=torch.long))


def sequence_starts(positions_BL: torch.Tensor) -> list[list[int]]:
    """Where the sequences of every row begin: at position 0, and at the row's begin."""
    return [sorted({0, *torch.where(row == 0)[0].tolist()}) for row in positions_BL]


def sequence_numbers(positions_BL: torch.Tensor) -> torch.Tensor:
    """The number of every token's sequence, counted through all rows: int64 ``[B, L]``."""
    begins = positions_BL == 0
    begins[:, 0] = True
    return begins.flatten().cumsum(0).view(begins.shape) - 1


@dataclass(frozen=True)
class PackedSequence:
    """One sequence of a row: where it lies, and how its rows attend."""

    row: int
    begin: int
    end: int
    rows: BlockRows


class BlockPlan:
    """Attention of whole sequences under the rule of blocks (an :class:`~videoxl.model.attention.AttentionPlan`).

    Args:
        tables: gives cosines and sines ``[B, L, E]``, on the device and in the dtype of a tensor.
        blocks_BL: the block of every token. Padding, at the end, is open.
        positions_BL: of the tokens, where a row holds several sequences; default: every row is one.
    """

    beacon_slots: torch.Tensor | None = None

    def __init__(
        self,
        tables: Callable[[torch.Tensor], Pair],
        blocks_BL: torch.Tensor,
        previous_blocks: int,
        positions_BL: torch.Tensor | None = None,
    ) -> None:
        self.tables = tables
        length = blocks_BL.shape[1]
        starts = [[0]] * len(blocks_BL) if positions_BL is None else sequence_starts(positions_BL)
        self.sequences = [
            PackedSequence(row, begin, end, block_rows(blocks[begin:end], previous_blocks))
            for row, (blocks, begins) in enumerate(zip(blocks_BL.tolist(), starts))
            for begin, end in pairwise([*begins, length])
        ]
        self._placed: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def attend(
        self, layer: AttentionLayer, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        """Un-rotated queries, keys and values of all tokens -> ``[B, N, L, E]``."""
        cos, sin = (table.unsqueeze(1) for table in self.tables(keys_BKLE))
        queries, keys = rotate(queries_BNLE, cos, sin), rotate(keys_BKLE, cos, sin)
        placed = self._on(keys.device)
        rows: list[list[torch.Tensor]] = [[] for _ in range(len(queries))]
        for one, where in zip(self.sequences, placed):
            row, span = slice(one.row, one.row + 1), slice(one.begin, one.end)
            states = (x[row, :, span] for x in (queries, keys, values_BKLE))
            rows[one.row].append(self._attend_one(layer, one.rows, where, *states))
        return torch.cat([torch.cat(parts, dim=2) for parts in rows])

    def _attend_one(
        self,
        layer: AttentionLayer,
        rows: BlockRows,
        placed: tuple[torch.Tensor, torch.Tensor],
        q_1NLE: torch.Tensor,
        k_1KLE: torch.Tensor,
        v_1KLE: torch.Tensor,
    ) -> torch.Tensor:
        open_places, order = placed
        out = []
        for call in rows.calls:
            chosen = open_places[: call.open_tokens]
            seen = [_seen(states, chosen, call) for states in (k_1KLE, v_1KLE)]
            out.append(causal_attention(layer, q_1NLE[:, :, call.begin : call.end], *seen))
        return torch.cat(out, dim=2).index_select(2, order)

    def _on(self, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The indices on a device, uploaded once for all layers."""
        if device not in self._placed:
            self._placed[device] = [
                (one.rows.open_places.to(device), one.rows.order.to(device)) for one in self.sequences
            ]
        return self._placed[device]


def _seen(states_1KLE: torch.Tensor, open_places: torch.Tensor, call: Rows) -> torch.Tensor:
    """Keys or values of a call, in the order that makes its mask causal."""
    window = states_1KLE[:, :, call.window : call.end]
    return torch.cat([states_1KLE.index_select(2, open_places), window], dim=2) if call.open_tokens else window


def block_mask(blocks_BL: torch.Tensor, previous_blocks: int) -> torch.Tensor:
    """The rule written out, bool ``[B, 1, L, L]``: the plain form of :class:`BlockPlan`."""
    rows, keys = blocks_BL[:, :, None], blocks_BL[:, None]
    near = (rows < 0) | (keys < 0) | (rows - keys <= previous_blocks)
    return (near & torch.ones(near.shape[1:], dtype=torch.bool, device=near.device).tril())[:, None]
