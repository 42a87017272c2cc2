"""Training on drawn samples: what moves, what is skipped, what is counted, what a checkpoint holds."""

from __future__ import annotations

import json

import pytest
import torch

import videoxl
from tests.training.stand_in import config_of, data_of, log_losses, model_of, start_of, weights_of
from videoxl.config import BeaconPrefill
from videoxl.errors import TrainingDataError, TrainingError
from videoxl.training.checkpoints import checkpoints, find
from videoxl.training.param_groups import group_of
from videoxl.training.run import run
from videoxl.training.trainer import VideoXLTrainer, padded_at_end


def train(folder, model, data=None, **changes):
    config = config_of(**changes)
    return run(
        config,
        output=folder,
        model=start_of(model),
        data=data or data_of(model, batch=config.per_device_batch_size),
        progress=False,
        notify=lambda message: None,
    )


def moved(model, before):
    return {name for name, value in weights_of(model).items() if not torch.equal(value, before[name])}


def test_the_loss_falls_and_is_logged(tmp_path):
    model = model_of()
    result = train(
        tmp_path,
        model,
        data_of(model, count=2),
        max_steps=12,
        learning_rates={"projector": 3e-3, "language_model": 3e-3},
    )
    losses = log_losses(tmp_path)
    assert result.steps == 12 == len(losses)
    assert sum(losses[-2:]) < 0.5 * sum(losses[:2])
    assert result.loss == losses[-1]
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries[:3]] == [1, 2, 3]
    assert entries[1]["epoch"] == 1.0  # two samples, one a step
    assert entries[1]["learning_rate"] == 3e-3


STILL = {
    "video-xl-2": set(),
    "video-xl": {f"model.language_model.layers.1.self_attn.beacon_q_proj.{kind}" for kind in ("weight", "bias")},
}
"""Weights that no loss depends on: queries of which only beacons come."""


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("video-xl-2", ["projector"]),
        ("video-xl-2", ["token_synthesis", "projector"]),
        ("video-xl-2", ["vision_tower", "token_synthesis", "projector", "language_model"]),
        ("video-xl", ["beacon"]),
        ("video-xl", ["vision_tower", "projector", "language_model", "beacon"]),
    ],
    ids=str,
)
def test_exactly_the_parts_with_a_rate_move(tmp_path, family, parts):
    model = model_of(family)
    before, reading = weights_of(model), {}
    if family == "video-xl":
        reading = {"prefill": BeaconPrefill(ratio=(2, 4), mix="random")}
    data = data_of(model, groups=6 if family == "video-xl" else 1)
    result = train(tmp_path, model, data, max_steps=2, learning_rates=dict.fromkeys(parts, 1e-2), **reading)
    unread = ["model.vision_tower.post_layernorm."]  # behind the features that are taken
    if family == "video-xl":
        unread += ["model.vision_tower.encoder.layers.2."]
    intended = {name for name in before if group_of(name) in parts and not name.startswith(tuple(unread))}
    assert set(result.trained) == intended
    embedding = {"model.language_model.embed_tokens.weight"}  # its rows move, and it is in both sets
    assert moved(model, before) | embedding & intended == intended - STILL[family]


def test_parts_learn_at_their_own_rates(tmp_path):
    """With plain SGD the step is the rate times the gradient."""
    steps = {}
    for rates in ({"projector": 1e-2, "language_model": 1e-4}, {"projector": 1e-2, "language_model": 3e-4}):
        model = model_of()
        before = weights_of(model)
        train(tmp_path / str(len(steps)), model, max_steps=1, optim="sgd", max_grad_norm=None, learning_rates=rates)
        steps[len(steps)] = {n: (weights_of(model)[n] - before[n]).double() for n in before}
    matrix = "model.language_model.layers.0.mlp.down_proj.weight"
    # in units of the weights' own rounding: 1e-7 of values about 0.1
    assert torch.allclose(3 * steps[0][matrix], steps[1][matrix], atol=1e-7)
    assert steps[0][matrix].abs().max() > 1e-6
    projector = next(n for n in steps[0] if "multi_modal_projector" in n)
    assert torch.equal(steps[0][projector], steps[1][projector])


@pytest.mark.parametrize("family", ["video-xl-2", "video-xl"])
def test_accumulated_batches_are_one_large_batch(tmp_path, family):
    """Answers have 4 to 6 tokens, so a mean of means would differ."""
    results = []
    for number, settings in enumerate(
        (
            {"per_device_batch_size": 4},
            {"per_device_batch_size": 1, "gradient_accumulation_steps": 4},
            {"per_device_batch_size": 2, "gradient_accumulation_steps": 2},
        )
    ):
        model = model_of(family)
        reading = {"prefill": BeaconPrefill(ratio=4)} if family == "video-xl" else {}
        rates = {"projector": 1e-2, "language_model": 1e-2}
        train(tmp_path / str(number), model, max_steps=2, optim="sgd", learning_rates=rates, **reading, **settings)
        results.append((log_losses(tmp_path / str(number)), weights_of(model)))
    for losses, weights in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-5)
        worst = max(float((weights[n] - w).abs().max()) for n, w in results[0][1].items())
        assert worst < 2e-6  # measured: 3e-7; the step itself moves weights by up to 1e-2


def test_gradient_checkpointing_and_windows_change_nothing(tmp_path):
    results = []
    for checkpointing in (False, True):
        model = model_of("video-xl")
        rates = {"projector": 1e-3, "language_model": 1e-3, "beacon": 1e-3}
        train(
            tmp_path / str(checkpointing),
            model,
            data_of(model, groups=10),
            max_steps=3,
            learning_rates=rates,
            prefill=BeaconPrefill(ratio=(2, 4, 8), mix="random"),
            gradient_checkpointing=checkpointing,
        )
        results.append((log_losses(tmp_path / str(checkpointing)), weights_of(model)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][name], results[1][1][name]) for name in results[0][1])


def test_bf16_arithmetic_keeps_fp32_weights(tmp_path):
    model = model_of()
    train(tmp_path, model, precision="bf16", max_steps=2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact = model_of()
    train(tmp_path / "exact", exact, max_steps=2)
    losses, exact_losses = log_losses(tmp_path), log_losses(tmp_path / "exact")
    assert losses != exact_losses
    assert losses == pytest.approx(exact_losses, rel=0.03)


# ---------------------------------------------------------------------------------------------------------- guards


def test_a_step_with_a_nan_loss_is_skipped_and_counted(tmp_path):
    model = model_of()
    before = weights_of(model)
    result = train(tmp_path, model, data_of(model, count=1, spoil=[0]), max_steps=3)
    assert result.skipped_steps == 3
    assert moved(model, before) == set()


def test_a_finite_loss_with_a_nan_gradient_is_skipped_too(tmp_path, monkeypatch):
    """The square root at 0 has a finite value and an infinite slope."""
    real = VideoXLTrainer.compute_loss

    def compute_loss(self, model, inputs, *rest, **more):
        loss = real(self, model, inputs, *rest, **more)
        if self.state.global_step == 1:
            weight = next(p for p in model.parameters() if p.requires_grad)
            loss = loss + ((weight - weight.detach()) ** 2).sum().sqrt()
        assert torch.isfinite(loss)
        return loss

    monkeypatch.setattr(VideoXLTrainer, "compute_loss", compute_loss)
    model = model_of()
    result = train(tmp_path, model, max_steps=3)
    assert result.skipped_steps == 1
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1])["grad_norm"] is None  # JSON has no NaN


def test_skipped_steps_leave_the_optimiser_alone(tmp_path):
    """One bad sample between good ones: weights and Adam's averages are as without it."""
    spoilt, clean = model_of(), model_of()
    train(tmp_path / "spoilt", spoilt, data_of(spoilt, count=3, spoil=[1]), num_train_epochs=1, max_steps=None)
    data = data_of(clean, count=3)
    order = data.order

    def without(epoch, rank, world):
        return [batch for batch in order(epoch, rank, world) if batch != [1]]

    train(
        tmp_path / "clean", clean, type(data)(data.dataset, data.collator, without), num_train_epochs=1, max_steps=None
    )
    assert all(torch.equal(a, b) for a, b in zip(weights_of(spoilt).values(), weights_of(clean).values()))


def test_five_in_a_row_end_the_run_and_the_newest_checkpoint_stays(tmp_path):
    model = model_of()
    data = data_of(model, count=12)

    def bad_at_the_end(epoch, rank, world):
        return [[n] for n in (0, 1, 2, 5, 6, 7, 8, 9, 10, 11)]

    data.dataset.spoil = {5, 6, 7, 8, 9, 10, 11}
    with pytest.raises(TrainingError, match=r"5 steps in a row .* last of them step 8.* checkpoint-7 is intact"):
        train(
            tmp_path,
            model,
            type(data)(data.dataset, data.collator, bad_at_the_end),
            max_steps=10,
            save_steps=1,
            save_total_limit=1,
        )
    found = find(tmp_path)
    assert found.newest.name == "checkpoint-7"
    engine = videoxl.load(str(found.newest), device="cpu")
    assert all(torch.isfinite(p).all() for p in engine.model.parameters())
    assert found.facts["guard"] == {"skipped": 4, "in_a_row": 4, "empty": 0}


def test_more_than_a_share_of_skipped_steps_ends_the_run(tmp_path):
    model = model_of()
    data = data_of(model, count=6, spoil=[1, 3, 5])
    changed = {"max_consecutive_skips": 2, "max_skipped_fraction": 0.01, "max_steps": 6}

    def alternating(epoch, rank, world):
        return [[n] for n in range(6)]

    with pytest.raises(TrainingError, match="3 of 6 steps, more than 2"):
        train(tmp_path, model, type(data)(data.dataset, data.collator, alternating), **changed)


def test_weights_that_an_update_blew_up_are_never_saved(tmp_path):
    """Loss and gradient are finite; the weights times the decay times the rate are not."""
    rates, model = {"language_model": 3e38}, model_of()
    settings = {"optim": "sgd", "max_grad_norm": None, "weight_decay": 10.0, "max_steps": 1, "learning_rates": rates}
    with pytest.raises(TrainingError, match=r"is not finite after step 1: .*Lower the learning rate; there is no"):
        train(tmp_path, model, **settings)
    assert checkpoints(tmp_path) == []


# ------------------------------------------------------------------------------------------------------ bad samples


def test_bad_samples_are_counted_and_listed_and_left_out(tmp_path):
    model = model_of()
    result = train(tmp_path, model, data_of(model, count=8, batch=2, bad=[2, 5]), per_device_batch_size=2, max_steps=4)
    lines = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert result.bad_samples == 2
    assert {(line["id"], line["reason"]) for line in lines} == {(f"sample-{n}", "drawn to fail") for n in (2, 5)}
    assert all(1 <= line["step"] <= 4 for line in lines)


def test_a_batch_without_a_good_sample_leaves_the_weights_alone(tmp_path):
    model = model_of()
    before = weights_of(model)
    train(tmp_path, model, data_of(model, count=2, bad=[0, 1]), max_steps=2, weight_decay=0.1)
    last = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][1]
    assert (last["empty_steps"], last["empty_batches"], last["bad_samples"]) == (2, 2, 2)
    assert moved(model, before) == set()


def test_too_many_bad_samples_end_the_run(tmp_path):
    model = model_of()
    with pytest.raises(
        TrainingDataError, match=r"6 of the first \d+ samples failed.*max_bad_fraction=0.05.*drawn to fail"
    ):
        train(tmp_path, model, data_of(model, count=50, bad=range(30)), max_steps=50)
    assert len((tmp_path / "bad_samples.jsonl").read_text().splitlines()) == 6


def test_a_few_bad_samples_of_fifty_do_not(tmp_path):
    model = model_of()
    assert (
        train(
            tmp_path, model, data_of(model, count=50, batch=10, bad=range(3)), per_device_batch_size=10, max_steps=5
        ).bad_samples
        == 3
    )


# ------------------------------------------------------------------------------------------------------ checkpoints


def test_checkpoints_and_the_result_load_as_models(tmp_path):
    model = model_of()
    result = train(tmp_path, model, max_steps=4, save_steps=1, save_total_limit=2)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-3"]
    for folder in (result.model, tmp_path / "checkpoint-4"):
        engine = videoxl.load(str(folder), device="cpu")
        weights = dict(engine.model.named_parameters())
        assert all(torch.equal(weights[name], value) for name, value in weights_of(model).items())
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    train(tmp_path, model_of(), max_steps=1)
    with pytest.raises(TrainingError, match="holds a run already: go on with it with --resume"):
        train(tmp_path, model_of(), max_steps=1)


def test_log_to_tensorboard(tmp_path):
    from tests.conftest import require

    require("tensorboard")
    train(tmp_path, model_of(), max_steps=2, report_to=("tensorboard",))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (tmp_path / "tensorboard").rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events))
    found.Reload()
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx(log_losses(tmp_path))


def test_no_mask_is_made_of_padding_at_the_end(tmp_path, monkeypatch):
    """Batches of rows of 4 to 6 answer tokens: the model gets no mask, and learns what it did with one."""
    found = []
    for keep in (True, False):
        if keep:
            monkeypatch.setattr("videoxl.training.trainer.padded_at_end", lambda mask: False)
        else:
            monkeypatch.undo()
        model = model_of()
        train(tmp_path / str(keep), model, per_device_batch_size=4, max_steps=2, optim="sgd")
        found.append(weights_of(model))
    assert all(torch.allclose(value, found[1][name], atol=1e-6) for name, value in found[0].items())
    assert padded_at_end(torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert not padded_at_end(torch.tensor([[0, 1, 1], [1, 1, 1]]))
    assert not padded_at_end(torch.ones(1, 1, 3, 3))
    assert not padded_at_end(None)
