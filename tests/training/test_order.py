"""The order of batches: whole, seeded, the same from the middle, and shared out among processes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from videoxl.training.data.order import BatchOrder

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(1, 1000, 403)]
KINDS = ["video", "image", "text"] * 134 + ["video"]


def orders(**settings):
    return [
        BatchOrder(403, 4, **settings),
        BatchOrder(LENGTHS, 4, **settings),
        BatchOrder(403, 4, kinds=KINDS, **settings),
        BatchOrder(LENGTHS, 4, kinds=KINDS, **settings),
    ]


@pytest.mark.parametrize("case", range(4))
def test_every_example_comes_and_few_come_twice(case):
    order = orders()[case]
    seen = Counter(number for batch in order for number in batch)
    assert set(seen) == set(range(403))
    assert sum(seen.values()) - 403 < 4 * (1 if case < 2 else 3)
    assert len(list(order)) == len(order)
    assert all(len(batch) == 4 for batch in order)


@pytest.mark.parametrize("case", range(4))
def test_it_begins_in_the_middle_as_if_it_had_come_there(case):
    whole = list(orders(seed=5, epoch=2)[case])
    for start in (0, 1, 57, len(whole)):
        part = orders(seed=5, epoch=2, start_batch=start)[case]
        assert list(part) == whole[start:]
        assert len(part) == len(whole) - start


@pytest.mark.parametrize("case", range(4))
def test_it_depends_on_seed_and_epoch_and_on_no_global_state(case):
    torch.manual_seed(1)
    np.random.seed(1)
    first = list(orders(seed=1)[case])
    torch.manual_seed(2)
    np.random.seed(2)
    assert list(orders(seed=1)[case]) == first
    assert list(orders(seed=2)[case]) != first
    assert list(orders(seed=1, epoch=1)[case]) != first


@pytest.mark.parametrize("case", range(4))
def test_processes_share_what_one_with_the_whole_batch_reads(case):
    def shared(rank):
        settings = {"kinds": KINDS if case > 1 else None, "rank": rank, "world": 2, "seed": 3}
        return list(BatchOrder(LENGTHS if case % 2 else 403, 2, **settings))

    one = list(orders(seed=3)[case])
    assert [a + b for a, b in zip(*map(shared, range(2)), strict=True)] == one


def test_batches_hold_one_kind_and_similar_lengths():
    spread = {}
    for name, order in (("grouped", BatchOrder(LENGTHS, 4, kinds=KINDS)), ("plain", BatchOrder(403, 4))):
        spread[name] = np.mean([np.ptp([LENGTHS[n] for n in batch]) for batch in order])
    assert all(len({KINDS[n] for n in batch}) == 1 for batch in BatchOrder(LENGTHS, 4, kinds=KINDS))
    assert spread["grouped"] < 0.2 * spread["plain"]
    first = [KINDS[batch[0]] for batch in BatchOrder(LENGTHS, 4, kinds=KINDS)]
    assert len(set(first[:20])) == 3  # kinds are mixed over the epoch


def test_without_shuffling_examples_come_as_they_are():
    assert [n for batch in BatchOrder(8, 4, shuffle=False) for n in batch] == list(range(8))
    assert [n for batch in BatchOrder([3, 1, 2, 9], 2, shuffle=False) for n in batch] == list(range(4))


def test_fewer_examples_than_a_batch_are_repeated():
    (batch,) = BatchOrder(3, 8)
    assert sorted(Counter(batch).values()) == [2, 3, 3]


def test_another_epoch_begins_at_its_begin():
    order = BatchOrder(100, 4, start_batch=9)
    order.set_epoch(0)
    assert len(order) == 16
    order.set_epoch(1)
    assert list(order) == list(BatchOrder(100, 4, epoch=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_takes_it_as_batch_sampler(workers):
    order = BatchOrder(20, 4, seed=1, start_batch=2)
    loader = DataLoader(list(range(20)), batch_sampler=order, num_workers=workers, collate_fn=list)
    assert list(loader) == list(order)


@pytest.mark.parametrize(
    ("count", "size", "settings"),
    [
        (0, 4, {}),
        ([], 4, {}),
        (5, 0, {}),
        (5, 1, {"rank": 1}),
        (5, 1, {"rank": -1}),
        (5, 1, {"world": 0}),
        (5, 1, {"epoch": -1}),
        (5, 1, {"seed": -1}),
        (5, 1, {"start_batch": -1}),
        (5, 1, {"kinds": ["video"]}),
    ],
)
def test_numbers_out_of_range(count, size, settings):
    with pytest.raises(ValueError, match=r"must be|needed for all"):
        BatchOrder(count, size, **settings)
