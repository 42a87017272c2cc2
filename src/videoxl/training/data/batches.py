"""The batches of a whole run as one sequence, so that a run can start anywhere in it without reading what lies before.

To the Trainer the run is a single epoch. Every sample is asked for by its epoch and its number, so that it does not
depend on which worker reads it, or when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

T_co = TypeVar("T_co", covariant=True)
Key = tuple[int, int]
"""Epoch and number of a sample."""
Batch = dict[str, Any]
"""The arguments of a forward by name, ``bad_samples``, ``truncated``, and the ``keys`` of the samples."""
CollateFunction = Callable[[list[Any]], Batch]
"""Samples to a batch. A sample is whatever the data set of that collator gives."""


class SampleSource(Protocol[T_co]):
    """Samples by number. One that depends on the epoch has ``set_epoch`` as well."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> T_co: ...


EpochOrder = Callable[[int], Iterable[Sequence[int]]]
"""The batches of one process in an epoch: numbers of samples. The same number of batches in every process."""


class RunOrder(Sampler[list[Key]]):
    """``batches`` batches of keys, from as many epochs as that takes."""

    def __init__(self, order: EpochOrder, batches: int, *, per_epoch: int) -> None:
        self.order, self.batches, self.per_epoch = order, batches, per_epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Key]]:
        left, epoch = self.batches, 0
        while left:
            before = left
            for batch in self.order(epoch):
                if not left:
                    return
                yield [(epoch, int(number)) for number in batch]
                left -= 1
            if left == before:
                raise ValueError("the data holds less than one batch for every process: use a smaller batch")
            epoch += 1


class KeyedDataset(Dataset[tuple[Key, object]]):
    """A data set whose samples are asked for by key."""

    def __init__(self, dataset: SampleSource[object]) -> None:
        self.dataset = dataset
        self._epoch: int | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[Key, object]:
        epoch, number = key
        if epoch != self._epoch and (set_epoch := getattr(self.dataset, "set_epoch", None)):
            set_epoch(epoch)
        self._epoch = epoch
        return key, self.dataset[number]


class KeyedCollator:
    """A collator whose batches carry the keys of their samples under ``keys``."""

    def __init__(self, collator: CollateFunction) -> None:
        self.collator = collator

    def __call__(self, items: list[tuple[Key, object]]) -> Batch:
        return {**self.collator([sample for _, sample in items]), "keys": [key for key, _ in items]}


def data_loader(
    dataset: SampleSource[object],
    collator: CollateFunction,
    order: RunOrder,
    *,
    workers: int = 0,
    prefetch: int | None = None,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """A loader that reads batches in the order given. It draws from no global random state."""
    loader: DataLoader[Batch] = DataLoader(
        KeyedDataset(dataset),  # type: ignore[arg-type]  # the collator makes batches of its samples
        batch_sampler=order,
        collate_fn=KeyedCollator(collator),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # otherwise every iterator draws from the global one
    )
    return loader
