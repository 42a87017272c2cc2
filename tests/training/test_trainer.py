"""Training on drawn samples: what moves, what is skipped, what is counted, what a checkpoint holds."""

from __future__ import annotations

import torch

from tests.training.stand_in import config_of, data_of, log_losses, model_of, start_of, weights_of
from videoxl.training.run import run


def train(folder, model, data=None, **changes):
    config = config_of(**changes)
    return run(
        config,
        output=folder,
        start=start_of(model),
        data=data or data_of(model, batch=config.batch),
        progress=False,
        say=lambda message: None,
    )


def moved(model, before):
    return {name for name, value in weights_of(model).items() if not torch.equal(value, before[name])}


def test_the_loss_falls(tmp_path):
    model = model_of()
    data = data_of(model, count=2)
    result = train(tmp_path, model, data, steps=12, learning_rates={"projector": 3e-3, "language_model": 3e-3})
    losses = log_losses(tmp_path)
    assert result.steps == 12 == len(losses)
    assert sum(losses[-2:]) < 0.5 * sum(losses[:2])
    assert result.loss == losses[-1]
