"""The projector and its pooling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model import reference
from tests.model.builders import difference, noise, randomised
from videoxl.model.projector import Projector, pool_grid


@given(
    groups=st.integers(1, 4),
    side=st.integers(2, 7),
    stride=st.integers(1, 3),
    mode=st.sampled_from(["average", "max"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_pooling_first_gives_the_released_result(groups, side, stride, mode, seed):
    if stride > side:
        return
    projector = randomised(Projector(8, 12), seed)
    x = noise(groups, side * side, 8, seed=seed)
    with torch.no_grad():
        released = reference.pool(reference.project(projector, x), side, stride, mode)
        ours = projector.project_and_pool(x, side, stride, mode)
    assert difference(ours, released) < 1e-5  # measured: 2.1e-7


@pytest.mark.parametrize("mode", ["average", "max"])
def test_same_gradients_as_project_then_pool(mode):
    projector = randomised(Projector(8, 12)).double()
    x = noise(3, 36, 8).double().requires_grad_()
    released = reference.pool(reference.project(projector, x), 6, 2, mode)
    ours = projector.project_and_pool(x, 6, 2, mode)
    variables = [x, *projector.parameters()]
    pairs = zip(*(torch.autograd.grad(out.square().sum(), variables) for out in (ours, released)))
    assert max(difference(a, b) for a, b in pairs) < 1e-13  # measured: 4.5e-16


def test_power_a_maximum_does_not_commute_with_the_last_layer():
    projector, x = randomised(Projector(8, 12)), noise(2, 16, 8)
    with torch.no_grad():
        released = projector.project_and_pool(x, 4, 2, "max")
        pooled_first = projector[2](pool_grid(projector[1](projector[0](x)), 4, 2, "max"))
    assert difference(released, pooled_first) > 0.1


def test_power_the_other_gelu_shows():
    projector, x = randomised(Projector(8, 12)), noise(2, 16, 8)
    with torch.no_grad():
        tanh = projector[2](torch.nn.functional.gelu(projector[0](x), approximate="tanh"))
        assert difference(projector(x), tanh) > 2e-5
        assert difference(projector(x), reference.project(projector, x)) < 1e-6  # measured: 0
