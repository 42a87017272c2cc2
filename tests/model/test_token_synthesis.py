"""Token synthesis against a plain statement of it, values and gradients, at odd sizes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.model import reference
from tests.model.builders import difference, gradient_difference, noise, synthesis
from videoxl.model.token_synthesis import regroup

SIZES = [  # channels, frames per group, groups, height, width
    (32, 4, 1, 1, 7),
    (32, 2, 5, 3, 5),
    (64, 4, 3, 5, 4),
    (64, 8, 2, 2, 3),
    (96, 4, 2, 7, 7),
    (96, 2, 4, 6, 1),
    (96, 1, 2, 3, 3),
]
TOLERANCE = 1e-5  # of the largest value; measured worst in this file: 1.8e-6


class BatchedProducts(TorchDispatchMode):
    """Notes the size of one item of the second operand of every batched product."""

    def __init__(self) -> None:
        super().__init__()
        self.per_item: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.bmm.default:
            self.per_item.append(args[1][0].numel())
        return func(*args, **(kwargs or {}))


def both(module, x_GCThw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and the reference's result, ``[G, C, h, w]``."""
    height, width = x_GCThw.shape[-2:]
    ours = module(x_GCThw.permute(0, 2, 3, 4, 1).flatten(2, 3), (height, width))
    return ours.transpose(1, 2).unflatten(2, (height, width)), reference.token_synthesis(module, x_GCThw)


@pytest.mark.parametrize(("channels", "T", "groups", "height", "width"), SIZES)
def test_same_values_as_the_reference(channels, T, groups, height, width):
    module = synthesis(channels, T, seed=channels + T)
    with torch.no_grad():
        ours, theirs = both(module, noise(groups, channels, T, height, width))
    assert difference(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(("channels", "T", "groups", "height", "width"), SIZES)
def test_same_gradients_as_the_reference(channels, T, groups, height, width):
    module = synthesis(channels, T, seed=channels - T).double()
    x = noise(groups, channels, T, height, width).double().requires_grad_()
    wanted = noise(groups, channels, height, width, seed=5).double()
    variables = [x, *module.parameters()]
    gradients = [
        torch.autograd.grad((out * wanted).sum(), variables, allow_unused=True, materialize_grads=True)
        for out in both(module, x)
    ]
    assert gradient_difference(*gradients) < 2e-6  # measured: 2.0e-7; the softmax is in float32


def test_bfloat16_stays_near_float32():
    module = synthesis(64, 4, seed=8)
    x = noise(2, 64, 4, 5, 5)
    with torch.no_grad():
        exact = reference.token_synthesis(module, x)
        ours, _ = both(module.bfloat16(), x.bfloat16())
    assert difference(ours, exact) < 0.04  # measured: 0.012


@pytest.mark.parametrize("T", [2, 4, 8])
def test_regrouping_is_the_raw_reshape(T):
    channels, height, width = 24, 3, 5
    grid = torch.arange(2 * T * channels * height * width).reshape(2 * T, channels, height, width)
    rows = regroup(grid.flatten(2).transpose(1, 2), T)
    assert torch.equal(
        rows.permute(0, 3, 1, 2).unflatten(3, (height, width)), grid.reshape(2, channels, T, height, width)
    )


def test_each_group_is_synthesised_alone():
    module = synthesis(32, 4)
    x = noise(5, 4, 12, 32)
    with torch.no_grad():
        together = module(x, (3, 4))
        alone = torch.cat([module(x[i : i + 1], (3, 4)) for i in range(5)])
    assert difference(together, alone) < TOLERANCE


def moved_by(stages) -> float:
    """How far other stages move the reference's result, as a share of its size."""
    module, x = synthesis(64, 4, seed=8), noise(2, 64, 4, 5, 5)
    with torch.no_grad():
        right, wrong = (reference.token_synthesis(module, x, s) for s in (reference.STAGES, stages))
    return difference(wrong, right)


def test_power_the_relative_term_not_transposed():
    textbook = partial(reference.temporal_attention, transposed=False)
    assert moved_by((reference.spatial_attention, textbook, reference.temporal_conv)) > 1000 * TOLERANCE


def test_power_time_padded_at_the_back():
    behind = partial(reference.temporal_conv, in_front=False)
    assert moved_by((reference.spatial_attention, reference.temporal_attention, behind)) > 1000 * TOLERANCE


def test_power_frames_grouped_with_a_permutation():
    module, frames = synthesis(64, 4, seed=8), noise(8, 64, 5, 5)
    with torch.no_grad():
        right = reference.token_synthesis(module, reference.regroup(frames, 4))
        proper = reference.token_synthesis(module, frames.unflatten(0, (2, 4)).transpose(1, 2))
    assert difference(proper, right) > 1000 * TOLERANCE


def test_frozen_weights_are_applied_in_one_product():
    """A frozen linear layer on a transposed input turns into a small product per position, 40 times as slow."""
    module = synthesis(64, 4).requires_grad_(False)
    weights = {p.numel() for p in module.parameters() if p.ndim > 1 and p.numel() >= 64 * 64}
    with BatchedProducts() as seen:
        module(noise(2, 4, 35, 64), (5, 7))
    assert len(seen.per_item) > 0
    assert not weights & set(seen.per_item)
