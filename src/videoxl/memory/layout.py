"""Where groups of frames lie in time and in a sequence of ids, and which tokens chunked prefill lets see each other.

Numbers only, no tensors (SPEC 3.6). A sequence is text, then the visual span, then text. In the span, every group of
frames is its timestamp followed by its visual tokens. A *block* is ``block_size`` groups. A visual token attends to the
visual tokens of its own block and of the ``previous_blocks`` blocks before it. *Global tokens* are the text before the
video and all timestamps: every later token attends to them. Timestamps attend to everything before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Group:
    """One group of frames. Token offsets count from the start of the uncompressed visual span; ends are exclusive."""

    start_s: float
    end_s: float
    token_start: int
    visual_start: int
    token_end: int


def clock(seconds: float) -> str:
    """Format seconds as ``1:02:03``; fractions are cut off."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


@dataclass(frozen=True)
class GroupLayout:
    """Where the groups of a sequence start and end: positions in the sequence, ends exclusive."""

    prefix_length: int
    """Tokens before the visual span."""
    starts_G: np.ndarray
    """First token of each group: where its timestamp begins."""
    visuals_G: np.ndarray
    """First visual token of each group."""
    end: int
    """End of the visual span."""

    @classmethod
    def from_ids(
        cls, ids: Sequence[int], prefix_length: int, video_token_id: int, end: int | None = None
    ) -> GroupLayout:
        """Find the groups in ``ids``: ``video_token_id`` is a visual token, any other id of the span is a timestamp's.

        ``end``: where the text after the video begins; default: the end of ``ids``. Raises ``ValueError`` when the
        span does not consist of whole groups.
        """
        end = len(ids) if end is None else end
        visual = np.asarray(ids[prefix_length:end], dtype=np.int64) == video_token_id
        edges = np.flatnonzero(visual[1:] != visual[:-1]) + 1
        if len(visual) and (visual[0] or not visual[-1]):
            raise ValueError("a video begins with a timestamp and ends with a visual token; this sequence does not")
        starts = np.concatenate([np.zeros(min(1, len(visual)), dtype=np.int64), edges[1::2]])
        return cls(prefix_length, starts + prefix_length, edges[0::2] + prefix_length, end)

    def __len__(self) -> int:
        return len(self.starts_G)

    @property
    def ends(self) -> np.ndarray:
        """The end of each group, ``[G]``."""
        return np.concatenate([self.starts_G[1:], [self.end]])[: len(self)].astype(np.int64)

    def timestamp_mask(self, length: int | None = None) -> np.ndarray:
        """Mark the timestamps: a bool for each of the first ``length`` tokens (default: up to the end of the video)."""
        steps = np.zeros((self.end if length is None else max(length, self.end)) + 1, dtype=np.int64)
        steps[self.starts_G] += 1
        steps[self.visuals_G] -= 1
        return steps[:-1].cumsum() > 0

    def groups_of_tokens(self) -> np.ndarray:
        """Number the group of every token up to the end of the video; -1 before the first group."""
        group = np.full(self.end, -1, dtype=np.int64)
        group[self.starts_G] = 1
        group[self.prefix_length :] = group[self.prefix_length :].clip(min=0).cumsum() - 1
        return group


def allowed_mask(
    layout: GroupLayout, length: int, *, block_size: int, previous_blocks: int, first_row: int = 0
) -> np.ndarray:
    """Write the attention rule out as a bool mask ``[length - first_row, length]``; True: the row attends to the token.

    ``length`` includes the text after the video, whose tokens attend to everything before them.
    """
    keys, rows = np.arange(length), np.arange(first_row, length)
    open_key = np.ones(length, dtype=bool)
    open_key[layout.prefix_length : layout.end] = layout.timestamp_mask()[layout.prefix_length :]
    open_row = open_key.copy()
    open_row[: layout.prefix_length] = False  # everything before them is text, which is open anyway
    block = np.full(length, -1, dtype=np.int64)
    block[: layout.end] = layout.groups_of_tokens() // block_size
    allowed = block[None] >= (block[rows] - previous_blocks)[:, None]
    allowed |= open_key[None]
    allowed |= open_row[rows, None]
    allowed &= keys[None] <= rows[:, None]
    return allowed


@dataclass(frozen=True)
class RowRun:
    """Rows ``[begin, end)`` that attend to the same window: the first ``global_tokens`` ones, then ``[window, end)``.

    With the keys in that order the mask is causal, aligned at the end.
    """

    begin: int
    end: int
    window: int
    """First token of the window; 0: the run attends to everything, and no global tokens are needed."""
    global_tokens: int


@dataclass(frozen=True)
class TilePlan:
    """One forward of a chunked prefill over rows ``[begin, end)``."""

    begin: int
    end: int
    runs: tuple[RowRun, ...]
    timestamps: tuple[tuple[int, int], ...]
    """Timestamps ``[begin, end)`` that attend to more than the window of their run."""
    global_tokens: np.ndarray
    """Indices of the global tokens among the rows."""
    keep_from: int
    """The first token that the windows of later tiles can still reach."""


class TilePlanner:
    """Plans the tiles of one video as its groups arrive. Its state follows from ids and settings alone."""

    def __init__(self, prefix_length: int, video_token_id: int, *, block_size: int, previous_blocks: int) -> None:
        self.prefix_length = prefix_length
        self.video_token_id = video_token_id
        self.block_size, self.previous_blocks = block_size, previous_blocks
        self.starts: list[int] = []
        self.length = prefix_length
        """Tokens known so far: the text before the video and whole groups."""
        self.planned = 0
        """Rows that already belong to a tile."""
        self._globals_before = [prefix_length]  # before each group, and in the end before what follows

    def add(self, span_ids: Sequence[int]) -> TilePlan:
        """Plan the tile of these ids (whole groups) and of what came before and was not planned yet."""
        layout = GroupLayout.from_ids(span_ids, 0, self.video_token_id)
        starts = (layout.starts_G + self.length).tolist()
        visuals = (layout.visuals_G + self.length).tolist()
        first_new, begin = len(self.starts), self.planned
        for start, visual in zip(starts, visuals):
            self._globals_before.append(self._globals_before[-1] + visual - start)
        self.starts += starts
        self.length += len(span_ids)
        self.planned = self.length
        runs = self._runs(begin, first_new)
        windowed_from = next((run.begin for run in runs if run.window), self.length)
        times = [np.arange(start, visual) for start, visual in zip(starts, visuals)]
        prefix = np.arange(begin, max(begin, self.prefix_length))
        return TilePlan(
            begin=begin,
            end=self.length,
            runs=runs,
            timestamps=tuple((s, v) for s, v in zip(starts, visuals) if s >= windowed_from),
            global_tokens=np.concatenate([prefix, *times]).astype(np.int64) - begin,
            keep_from=self._window(len(self.starts) // self.block_size)[0],
        )

    @property
    def global_tokens(self) -> int:
        """Number of global tokens so far."""
        return self._globals_before[-1]

    def mark(self) -> tuple[int, int, int]:
        """Remember the present state for :meth:`rewind`."""
        return len(self.starts), self.length, self.planned

    def rewind(self, mark: tuple[int, int, int]) -> None:
        """Forget what was added after :meth:`mark`."""
        groups, self.length, self.planned = mark
        del self.starts[groups:], self._globals_before[groups + 1 :]

    def _runs(self, begin: int, first_group: int) -> tuple[RowRun, ...]:
        """Cut the rows from ``begin`` on where the window changes; ``first_group`` is the first group among them."""
        runs: list[RowRun] = []
        groups = len(self.starts)
        blocks = range(first_group // self.block_size, -(-groups // self.block_size))
        for block in blocks if groups > first_group else ():
            after = (block + 1) * self.block_size
            end = self.starts[after] if after < groups else self.length
            window, global_tokens = self._window(block)
            if runs and runs[-1].window == window == 0:
                begin = runs.pop().begin
            runs.append(RowRun(begin, end, window, global_tokens))
            begin = end
        return tuple(runs) or (RowRun(begin, self.length, 0, 0),) * (self.length > begin)

    def _window(self, block: int) -> tuple[int, int]:
        """Find where the window of a block begins and how many global tokens precede it; (0, 0): it is everything."""
        first = (block - self.previous_blocks) * self.block_size
        if first <= 0:
            return 0, 0
        if first >= len(self.starts):
            return self.length, self._globals_before[-1]
        return self.starts[first], self._globals_before[first]
