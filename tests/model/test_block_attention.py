"""Attention by blocks against the mask of all tokens, and against the rule of chunked prefill."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.model.builders import small_model
from videoxl.memory.layout import GroupLayout, allowed_mask
from videoxl.model.block_attention import OPEN, block_mask, block_rows


def sequence(groups, *, block=1, prefix=5, stamp=3, visual=4, suffix=6, padding=0):
    """The block of every token."""
    span = [number // block if at >= stamp else OPEN for number in range(groups) for at in range(stamp + visual)]
    return [OPEN] * prefix + span + [OPEN] * (suffix + padding)


@pytest.mark.parametrize(
    ("groups", "block", "previous"), [(5, 1, 1), (7, 2, 1), (7, 3, 2), (4, 2, 9), (1, 1, 0), (6, 1, 0)]
)
def test_the_mask_is_the_rule_of_chunked_prefill(groups, block, previous):
    blocks = torch.tensor(sequence(groups, block=block))
    ids = [99 if b >= 0 else 1 for b in blocks.tolist()]
    layout = GroupLayout.from_ids(ids, 5, 99, len(ids) - 6)
    want = allowed_mask(layout, len(ids), block_size=block, previous_blocks=previous)
    assert np.array_equal(block_mask(blocks[None], previous)[0, 0].numpy(), want)


@pytest.mark.parametrize(("groups", "block", "previous"), [(5, 1, 1), (7, 2, 1), (4, 2, 9), (6, 1, 0)])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_outputs_and_gradients_are_those_of_the_mask(groups, block, previous, kernel):
    rows = [sequence(groups, block=block), sequence(groups - 1, block=block, padding=7)]
    blocks = torch.tensor(rows)
    model = small_model().model.language_model.double()
    model.set_attn_implementation(kernel)
    source = torch.Generator().manual_seed(1)
    found = []
    embeds = torch.randn(2, blocks.shape[1], 48, generator=source, dtype=torch.float64)
    wanted = torch.randn(2, blocks.shape[1], 48, generator=source, dtype=torch.float64)
    for how in (
        {"visual_blocks": blocks, "previous_blocks": previous},
        {"attention_mask": block_mask(blocks, previous)},
    ):
        model.zero_grad()
        inputs = embeds.clone().requires_grad_(True)
        out = model(inputs_embeds=inputs, use_cache=False, **how).last_hidden_state
        (out * wanted).sum().backward()
        found.append(
            (out.detach(), inputs.grad, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    one, other = found
    torch.testing.assert_close(one[0], other[0], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(one[1], other[1], atol=2e-6, rtol=1e-5)
    for name, gradient in one[2].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradient, other[2][name], atol=2e-6 * max(scale, 1), rtol=0, msg=name)


def test_no_call_sees_more_than_its_window_and_the_open_tokens():
    rows = block_rows(sequence(40, visual=20), 2)
    for call in rows.calls:
        if call.window:
            assert call.end - call.window <= 3 * 23
    computed = sum((call.end - call.begin) * (call.open_tokens + call.end - call.window) for call in rows.calls)
    assert computed < 0.35 * len(rows.order) ** 2
    assert sorted(rows.order.unique().tolist()) == sorted(rows.order.tolist())


def test_blocks_that_go_down_and_a_mask_beside_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks must go up"):
        block_rows([OPEN, 1, 1, 0], 1)
    blocks = torch.tensor([sequence(2)])
    with pytest.raises(ValueError, match="leave out the cache and attention_mask"):
        small_model().model.language_model(
            inputs_embeds=torch.zeros(1, blocks.shape[1], 48),
            attention_mask=torch.ones_like(blocks),
            visual_blocks=blocks,
        )
