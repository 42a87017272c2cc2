"""Several examples in one row: which go together, and the batches they make.

Rows are planned from estimated lengths, once for a run, so that steps are known before it begins and every process
plans the same. A batch is then filled by the lengths its examples really have: if they take more than was estimated,
it has a row more, and nothing is left out.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from videoxl.inference.prompt import IGNORE_INDEX
from videoxl.model.block_attention import OPEN
from videoxl.model.configuration import VideoXLConfig
from videoxl.training.config.data import DataConfig
from videoxl.training.data.batches import Batch
from videoxl.training.data.collator import FILLED, ORDER, Collator
from videoxl.training.data.dataset import VideoDataset
from videoxl.training.data.examples import BadSample, Example
from videoxl.training.data.order import BatchOrder


def mixes_kinds(config: VideoXLConfig) -> bool:
    """Whether videos and images may stand in one batch of a model."""
    return not config.has_beacons and config.image_token_id != config.video_token_id


def fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Examples by row: the longest first, each into the fullest row that has room for it.

    An example longer than ``size`` has a row of its own. Examples of a row come in their order.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # left in a row, and its number; ascending
    for number in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        at = bisect.bisect_left(room, (lengths[number], -1))
        left, row = room.pop(at) if at < len(room) else (size, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        if left > lengths[number]:
            bisect.insort(room, (left - lengths[number], row))
    return [sorted(row) for row in rows]


class PackedOrder:
    """Batches of planned rows for one process: the examples of all rows of a batch."""

    def __init__(self, rows: Sequence[np.ndarray], order: BatchOrder) -> None:
        """``order``: of the rows."""
        self.rows, self.order = rows, order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.order:
            yield [int(number) for row in batch for number in self.rows[row]]


def plan_rows(
    lengths: Sequence[int], size: int, *, seed: int, kinds: Sequence[str] | None = None
) -> tuple[list[np.ndarray], list[str] | None]:
    """Rows of examples, and the kind of each where ``kinds`` must not meet.

    Which of equally long examples meet follows the seed. The last row of a kind may be anything but full.
    """
    random = np.random.default_rng([seed, len(lengths)])
    rows: list[np.ndarray] = []
    of: list[str] = []
    for kind in [None] if kinds is None else sorted(set(kinds)):
        numbers = np.array([n for n in range(len(lengths)) if kinds is None or kinds[n] == kind])
        numbers = random.permutation(numbers)
        found = [numbers[row] for row in fit([lengths[n] for n in numbers.tolist()], size)]
        rows += found
        of += [kind or ""] * len(found)
    return rows, None if kinds is None else of


def packed_rows(config: DataConfig, dataset: VideoDataset) -> tuple[list[np.ndarray], list[str] | None]:
    """The rows of a data set, of one kind each where kinds cannot meet in a batch."""
    together = mixes_kinds(dataset.model_config) and config.feature_cache is None
    kinds = None if together else dataset.kinds
    return plan_rows(dataset.packed_lengths, cast(int, config.max_length), seed=config.seed, kinds=kinds)


@dataclass(frozen=True)
class PackedFacts:
    """What packing makes of a data set, by estimated lengths."""

    examples: int
    rows: dict[str, int]
    """Rows of every kind; under an empty name where kinds meet."""
    fill: float
    """The share of the rows' tokens that examples take."""
    shows: bool
    """Whether any example shows a picture or video."""

    @property
    def examples_per_row(self) -> float:
        return self.examples / sum(self.rows.values())


def packed_facts(config: DataConfig, dataset: VideoDataset) -> PackedFacts:
    """The facts for an estimate."""
    rows, kinds = packed_rows(config, dataset)
    room = len(rows) * cast(int, config.max_length)
    shows = any(kind != "text" for kind in dataset.kinds)
    return PackedFacts(len(dataset), Counter(kinds or [""] * len(rows)), sum(dataset.packed_lengths) / room, shows)


class PackedCollator:
    """Makes rows of several examples: ``input_ids``, ``labels``, ``position_ids`` and ``visual_blocks``, ``[R, L]``.

    A position of 0 begins an example, and no example sees another one
    (:class:`~videoxl.model.block_attention.BlockPlan`). The first token of each is not predicted by the one before.
    ``filled`` counts tokens, and the room that rows of ``size`` tokens have.
    """

    def __init__(self, collator: Collator, size: int) -> None:
        self.collator, self.size = collator, size

    def __call__(self, samples: Sequence[Example | BadSample]) -> Batch:
        examples = {at: sample for at, sample in enumerate(samples) if isinstance(sample, Example)}
        reports, places = self.collator.reports(samples), list(examples)
        if not examples:
            return reports
        lengths = [len(example.input_ids) for example in examples.values()]
        chosen = [[places[n] for n in row] for row in fit(lengths, self.size)]
        rows = [[examples[at] for at in row] for row in chosen]
        batch = self._text(rows) | self.collator.pictures([example for row in rows for example in row])
        longest = batch["input_ids"].shape[1]
        sizes = [sum(len(example.input_ids) for example in row) for row in rows]
        order = [at for row, size in zip(chosen, sizes) for at in [*row, *[-1] * (size < longest)]]
        return batch | reports | {FILLED: (sum(lengths), len(rows) * self.size), ORDER: order}

    def _text(self, rows: Sequence[Sequence[Example]]) -> Batch:
        shape = len(rows), max(sum(len(example.input_ids) for example in row) for row in rows)
        ids = torch.full(shape, self.collator.pad_token_id)
        labels, blocks = torch.full(shape, IGNORE_INDEX), torch.full(shape, OPEN)
        positions = torch.zeros(shape, dtype=torch.long)
        for at, row in enumerate(rows):
            begin = 0
            for example in row:
                end = begin + len(example.input_ids)
                ids[at, begin:end] = torch.tensor(example.input_ids)
                labels[at, begin + 1 : end] = torch.tensor(example.labels[1:])
                blocks[at, begin:end] = torch.from_numpy(self.collator.blocks(example))
                positions[at, begin:end] = torch.arange(end - begin)
                begin = end
            positions[at, begin:] = torch.arange(shape[1] - begin)  # padding sees itself alone
        mask = self.collator.mask
        previous = torch.tensor(0 if mask is None else mask.previous_blocks)
        texts = {"input_ids": ids, "labels": labels, "position_ids": positions}
        return {**texts, "visual_blocks": blocks, "previous_blocks": previous}
