"""Logits only where they are asked for, against the plain way: all rows, then the ones wanted."""

from __future__ import annotations

import pytest
import torch

from tests.model.random_tiny import tiny_model

TOLERANCE = 1e-5  # measured worst 7.2e-7, for values up to 3.4


@pytest.mark.parametrize("keep", [1, 3, 17, torch.tensor([0, 5, 16])], ids=str)
def test_wanted_rows_equal_those_of_all_rows(keep) -> None:
    model = tiny_model()
    ids = torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        every = model(input_ids=ids).logits
        some = model(input_ids=ids, logits_to_keep=keep).logits
    wanted = every[:, -keep:] if isinstance(keep, int) else every[:, keep]
    assert some.shape == wanted.shape
    assert (some - wanted).abs().max() <= TOLERANCE
    assert (every[:, 0] - every[:, -1]).abs().max() > 100 * TOLERANCE  # rows do differ
