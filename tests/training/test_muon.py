"""Muon beside AdamW: who gets which weight, one schedule for both, and states that come back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from videoxl.training.muon import MuonAdamW, muon_for


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def groups_of(model: nn.Module) -> list[dict]:
    return [
        {"params": [p for p in model.parameters() if p.ndim > 1], "lr": 0.1, "weight_decay": 0.2},
        {"params": [p for p in model.parameters() if p.ndim < 2], "lr": 0.1, "weight_decay": 0.0},
    ]


def step(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
    ids = torch.randint(0, 5, (6,), generator=torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    model(ids).square().sum().backward()
    optimiser.step()


def test_only_matrices_of_layers_are_muons():
    model = Small()
    optimiser = muon_for(model, groups_of(model))
    muon, adamw = optimiser.optimizers
    assert isinstance(muon, torch.optim.Muon)
    assert {id(p) for g in muon.param_groups for p in g["params"]} == {id(layer.weight) for layer in model.layers}
    others = {id(model.embed.weight), *(id(layer.bias) for layer in model.layers)}
    assert {id(p) for g in adamw.param_groups for p in g["params"]} == others
    assert [g["lr"] for g in optimiser.param_groups] == pytest.approx([0.5 * 0.1, 0.1, 0.1])
    assert [g["weight_decay"] for g in optimiser.param_groups] == [0.2, 0.2, 0.0]


def test_a_schedule_reaches_both():
    model = Small()
    optimiser = muon_for(model, groups_of(model))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: 0.5**n)
    step(model, optimiser, 0)
    schedule.step()
    assert [g["lr"] for part in optimiser.optimizers for g in part.param_groups] == pytest.approx([0.025, 0.05, 0.05])
    before = copy.deepcopy(model.state_dict())
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    step(model, optimiser, 1)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_state_comes_back_bit_for_bit():
    torch.manual_seed(0)
    model = Small()
    optimiser = muon_for(model, groups_of(model))
    for seed in range(3):
        step(model, optimiser, seed)
    other = copy.deepcopy(model)
    again = muon_for(other, groups_of(other))
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for seed in range(3, 6):
        step(model, optimiser, seed)
        step(other, again, seed)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="nothing to optimise"):
        MuonAdamW([], [])
