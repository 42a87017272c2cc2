"""Attention in parts, merged, against one softmax over everything."""

from __future__ import annotations

import pytest
import torch

from videoxl.model import attention_parts
from videoxl.model.attention_parts import merge, plain_with_sums


def states(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def whole(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """One softmax, in float64, every key repeated for the heads of its group."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(
    ("batch", "heads", "key_heads", "new", "before", "own"), [(1, 4, 2, 3, 17, 5), (3, 6, 1, 1, 1, 9)]
)
def test_two_sets_of_keys(batch: int, heads: int, key_heads: int, new: int, before: int, own: int) -> None:
    torch.manual_seed(0)
    q = states(batch, heads, new, 8)
    k, v = states(batch, key_heads, before + own, 8), states(batch, key_heads, before + own, 8)
    mask = torch.ones(new, before + own, dtype=torch.bool).tril_(before + own - new)
    mask[:, before] = False
    expected = whole(q, k, v, mask, 0.3)
    single = [t.float() for t in (q, k, v)]
    parts = [
        plain_with_sums(single[0], single[1][:, :, :before], single[2][:, :, :before], None, scale=0.3),
        plain_with_sums(single[0], single[1][:, :, before:], single[2][:, :, before:], mask[:, before:], scale=0.3),
    ]
    assert (merge(parts).double() - expected).abs().max() < 2e-6  # 5e-7 measured


def test_a_row_that_sees_nothing_of_a_set_counts_for_nothing_there() -> None:
    torch.manual_seed(0)
    q, k, v = (states(1, 2, 4, 8).float() for _ in range(3))
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    seen = plain_with_sums(q, k, v, None, scale=1.0)
    unseen = plain_with_sums(q, k, v, nothing, scale=1.0)
    assert unseen[1].eq(-torch.inf).all()
    assert torch.equal(unseen[0], torch.zeros_like(q))
    assert torch.equal(merge([seen, unseen]), seen[0])


def test_few_keys_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, k, v = states(2, 4, 3, 8).float(), states(2, 2, 101, 8).float(), states(2, 2, 101, 8).float()
    mask = torch.rand(2, 1, 3, 101) < 0.5
    expected = plain_with_sums(q, k, v, mask, scale=0.5)
    monkeypatch.setattr(attention_parts, "SCORES_AT_ONCE", 24 * 7)
    got = plain_with_sums(q, k, v, mask, scale=0.5)
    for one, other in zip(got, expected):
        assert (one - other).abs().max() < 2e-6  # 5e-7 measured
