"""The loss where labels are, against the plain loss of all logits: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tests.model.builders import noise, small_model
from videoxl.model import token_loss
from videoxl.model.token_loss import next_token_loss, token_losses


def plain(head, hidden, labels, items=None):
    """Logits of every token in fp32."""
    logits = head(hidden).float()[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    total = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    return total / ((targets != -100).sum() if items is None else items)


@pytest.mark.parametrize("rows", [1, 3, 7, 512])
@pytest.mark.parametrize("items", [None, 5, torch.tensor(9)])
def test_loss_and_gradients_are_those_of_all_logits(rows, items, monkeypatch):
    # Measured worst: 6e-8.
    monkeypatch.setattr(token_loss, "ROWS", rows)
    head = nn.Linear(16, 31, bias=False)
    labels = torch.randint(0, 31, (2, 15), generator=torch.Generator().manual_seed(2))
    labels[0, :9], labels[1, 4:8] = -100, -100
    found = []
    for loss_of in (plain, next_token_loss):
        hidden = noise(2, 15, 16).requires_grad_(True)
        head.zero_grad()
        loss = loss_of(head, hidden, labels, items)
        loss.backward()
        found.append((loss.detach(), hidden.grad, head.weight.grad.clone()))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_nothing_live_is_a_loss_of_0_with_a_gradient():
    hidden = noise(1, 4, 16).requires_grad_(True)
    loss = next_token_loss(nn.Linear(16, 5), hidden, torch.full((1, 4), -100))
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()


def test_logits_exist_for_a_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(token_loss, "ROWS", 4)
    seen = []

    class Head(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    hidden = noise(10, 8).requires_grad_(True)
    token_losses(Head(8, 6), hidden, torch.arange(10) % 6).sum().backward()
    assert seen == [4, 4, 2, 2, 4, 4]  # and again in the backward pass, the last first


def test_the_model_computes_the_same_loss_with_and_without_all_logits():
    model = small_model().train()
    ids = torch.arange(5, 25)[None]
    labels = ids.clone()
    labels[:, :12] = -100
    found = []
    for kept in (0, 1):
        model.zero_grad()
        out = model(input_ids=ids, labels=labels, logits_to_keep=kept)
        out.loss.backward()
        assert out.logits.shape[1] == (20 if kept == 0 else 1)
        found.append(
            (out.loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=1e-6)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-6, rtol=1e-5, msg=name)


def test_token_synthesis_keeps_less_with_checkpointing_and_learns_the_same():
    found, kept = [], []
    for checkpointing in (False, True):
        model = small_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        size = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, size=size: size.append(t.numel()) or t, lambda t: t):
            tokens = model.model.synthesize(noise(8, 36, 32).requires_grad_(True))
        tokens.square().sum().backward()
        gradients = {n: p.grad for n, p in model.model.token_synthesis.named_parameters() if p.grad is not None}
        found.append((tokens.detach(), gradients))
        kept.append(sum(size))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-6, rtol=1e-6)
    assert kept[1] < kept[0] / 5
