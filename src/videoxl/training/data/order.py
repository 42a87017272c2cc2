"""The order of batches: drawn from a seed, known without reading anything, and able to begin in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

GROUPED_BATCHES = 50
"""Examples of similar length are looked for among this many global batches, so that the order stays random."""
OPEN_BLOCKS = 4
"""Where files are best read block by block, examples of about so many blocks of a file are mixed with one another."""


class BatchOrder(Sampler[list[int]]):
    """Batches of example numbers for one process of several; a ``batch_sampler`` of torch's ``DataLoader``.

    Every epoch has another order, which depends on seed and epoch alone: not on workers, and not on where it begins.
    All processes go through equally many batches; the last ones are filled up from the begin of the epoch, as torch's
    ``DistributedSampler`` does. Batches hold examples of one kind where kinds are given.
    """

    def __init__(
        self,
        lengths: Sequence[int] | int,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        start_batch: int = 0,
        rank: int = 0,
        world: int = 1,
        kinds: Sequence[str] | None = None,
        blocks: np.ndarray | None = None,
        shuffle: bool = True,
    ) -> None:
        """``lengths`` of all examples to group them by, or how many there are.

        ``kinds``: what must not meet in a batch. ``blocks``: int64 ``[N, 2]``, the file of every example and its block
        there, -1 where it may be read at any time. ``shuffle=False``: as they come, for evaluation. ``start_batch``:
        how many batches of the epoch are already done. Raises ``ValueError`` for numbers out of range.
        """
        self.count = lengths if isinstance(lengths, int) else len(lengths)
        self.lengths = None if isinstance(lengths, int) else np.asarray(lengths, dtype=np.int64)
        for name, value, least in (
            ("the number of examples", self.count, 1),
            ("batch_size", batch_size, 1),
            ("world", world, 1),
            ("seed", seed, 0),
            ("epoch", epoch, 0),
            ("rank", rank, 0),
            ("start_batch", start_batch, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if rank >= world:
            raise ValueError(f"rank must be below world={world}, got {rank}")
        if kinds is not None and len(kinds) != self.count:
            raise ValueError(f"kinds are needed for all {self.count} examples, got {len(kinds)}")
        self.kinds = None if kinds is None else np.unique(np.asarray(kinds), return_inverse=True)[1]
        self.blocks = blocks
        self.batch_size, self.seed, self.epoch, self.start_batch = batch_size, seed, epoch, start_batch
        self.rank, self.world, self.shuffle = rank, world, shuffle

    def set_epoch(self, epoch: int) -> None:
        """Go on with the order of another epoch, from its begin."""
        if epoch != self.epoch:
            self.epoch, self.start_batch = epoch, 0

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch in one process."""
        sizes = [self.count] if self.kinds is None else np.bincount(self.kinds).tolist()
        return sum(-(-size // (self.batch_size * self.world)) for size in sizes)

    def __len__(self) -> int:
        return max(self.batches_per_epoch - self.start_batch, 0)

    def __iter__(self) -> Iterator[list[int]]:
        share = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for numbers in self._global_batches()[self.start_batch :]:
            yield numbers[share].tolist()

    def _global_batches(self) -> list[np.ndarray]:
        """Every batch of the epoch, of all processes together."""
        random = np.random.default_rng([self.seed, self.epoch])
        kinds = np.zeros(self.count, np.int64) if self.kinds is None else self.kinds
        size = self.batch_size * self.world
        batches = []
        for kind in range(int(kinds.max()) + 1):
            numbers = np.flatnonzero(kinds == kind)
            if self.shuffle:
                numbers = self._grouped(self._shuffled(random, numbers), size * GROUPED_BATCHES)
            whole = np.resize(numbers, -(-len(numbers) // size) * size)  # begins anew where it ends
            batches += list(whole.reshape(-1, size))
        if self.shuffle and (self.lengths is not None or self.kinds is not None):
            batches = [batches[at] for at in random.permutation(len(batches))]
        return batches

    def _shuffled(self, random: np.random.Generator, numbers: np.ndarray) -> np.ndarray:
        """In random order. Every block of a file has its stretch of the epoch, and stretches overlap."""
        if self.blocks is None:
            return random.permutation(numbers)
        moments, of = random.random(len(numbers)), self.blocks[numbers]
        for file in np.unique(of[of[:, 1] >= 0, 0]).tolist():
            rows = np.flatnonzero((of[:, 0] == file) & (of[:, 1] >= 0))
            own, places = np.unique(of[rows, 1], return_inverse=True)
            stretch = min(OPEN_BLOCKS / len(own), 1.0)
            begins = random.permutation(len(own)) / max(len(own) - 1, 1) * (1 - stretch)
            moments[rows] = begins[places] + stretch * moments[rows]
        found: np.ndarray = numbers[np.argsort(moments, kind="stable")]
        return found

    def _grouped(self, numbers: np.ndarray, among: int) -> np.ndarray:
        """Sorted by length, the longest first, within stretches of ``among`` examples."""
        if self.lengths is None:
            return numbers
        parts = np.split(numbers, range(among, len(numbers), among))
        return np.concatenate([part[np.argsort(-self.lengths[part], kind="stable")] for part in parts])
