"""What is measured beside training: loss, best model, early end, commands; averages, schedules, and the log."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from tests.training.records import record, video, write
from tests.training.stand_in import config_of, data_of, model_of, start_of, weights_of
from videoxl.errors import MissingDependencyError, TrainingDataError
from videoxl.training.arguments import training_arguments
from videoxl.training.config.overrides import made, plain
from videoxl.training.config.training import TrainingConfig
from videoxl.training.config.validation import ValidationConfig
from videoxl.training.data.mixtures import Source
from videoxl.training.ema import FILE, WeightAverage
from videoxl.training.run import run
from videoxl.training.throughput import Throughput, Work

ECHO = [sys.executable, "-c", "import pathlib, sys; print(len(list(pathlib.Path(sys.argv[1]).iterdir())), sys.argv[2])"]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """A text, a video, and a record whose video is missing."""
    root = tmp_path_factory.mktemp("held-out")
    video(root, "clip.mp4", frames=4, fps=2)
    question = "<image>\nWhat is shown?"
    records = [
        record("Hello", "Hi there."),
        record(question, "A bar.", video="clip.mp4"),
        record(question, "A bar.", video="gone.mp4", id="lost"),
    ]
    return write(root / "held-out.json", records)


def train(folder, model, held_out=None, *, notify=None, data=None, resume=False, **changes):
    if held_out is not None:
        settings = {"steps": 2, "sources": (Source(str(held_out)),), **changes.pop("validation", {})}
        changes["validation"] = ValidationConfig(**settings)
    return run(
        config_of(**{"max_steps": 4, **changes}),
        output=folder,
        model=start_of(model),
        data=data or data_of(model),
        progress=False,
        resume=resume,
        notify=notify or (lambda message: None),
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_loss_is_measured_on_other_data_and_the_best_model_kept(held_out, tmp_path):
    model = model_of()
    result = train(tmp_path, model, held_out)
    measured = lines(tmp_path / "validation.jsonl")
    assert [(m["step"], m["samples"], m["bad"]) for m in measured] == [(2, 2, 1), (4, 2, 1)]
    lowest = min(measured, key=lambda entry: entry["loss"])
    entries = [entry for entry in lines(tmp_path / "log.jsonl") if "validation_loss" in entry]
    assert [entry["validation_loss"] for entry in entries] == [m["loss"] for m in measured]
    assert {entry["id"].partition(" ")[0] for entry in lines(tmp_path / "bad_validation.jsonl")} == {"lost"}
    assert result.best == tmp_path / "best"
    facts = json.loads((result.best / "complete.json").read_text())["facts"]
    assert facts == {"step": lowest["step"], "validation_loss": lowest["loss"]}
    best = weights_of(type(model).from_pretrained(result.best))
    same = all(torch.equal(value, best[name]) for name, value in weights_of(model).items())
    assert same == (lowest["step"] == 4)


def test_the_loss_is_the_mean_over_supervised_tokens(held_out, tmp_path):
    """By hand, with the weights of the run: what the log says."""
    from videoxl.training.validation import load_validation

    model = model_of()
    config = config_of(validation=ValidationConfig(sources=(Source(str(held_out)),)))
    data = load_validation(config, start_of(model))
    train(tmp_path, model, held_out)
    total = count = 0.0
    with torch.no_grad():
        for number in (0, 1):
            batch = data.collator([data.dataset[number]])
            batch.pop("bad_samples")
            items = int((batch["labels"][:, 1:] != -100).sum())
            total += float(model.eval()(**batch).loss) * items
            count += items
    assert lines(tmp_path / "validation.jsonl")[-1]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_measuring_changes_nothing_in_what_is_learned(held_out, tmp_path):
    found = []
    for number, data in enumerate((None, held_out)):
        model = model_of()
        train(tmp_path / str(number), model, data)
        found.append(weights_of(model))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_run_ends_early_and_goes_on_counting_where_it_was(held_out, tmp_path):
    told: list[str] = []
    never = {"steps": 1, "patience": 3, "min_delta": 100.0}
    result = train(tmp_path, model_of(), held_out, notify=told.append, max_steps=10, validation=never, save_steps=2)
    assert result.steps == 4  # the first is the best, and three are no better
    assert any("ended after step 4: 3 measurements were no better" in message for message in told)
    (tmp_path / "model" / "complete.json").unlink()
    again = train(tmp_path, model_of(), held_out, max_steps=10, validation=never, save_steps=2, resume=True)
    assert again.steps == 4  # it had ended: only the model was left to write
    assert (tmp_path / "model" / "complete.json").is_file()


@pytest.mark.parametrize("patience", [None, 2])
def test_a_resumed_run_is_the_uninterrupted_one_average_best_and_end_included(held_out, tmp_path, patience):
    settings = {"max_steps": 6, "save_steps": 2, "save_total_limit": 9, "ema_decay": 0.5}
    settings |= {"learning_rates": {"projector": 0.3}, "optim": "sgd"}
    settings["validation"] = {"steps": 1, "patience": patience, "min_delta": 0.0 if patience is None else 0.02}
    whole = train(tmp_path / "whole", model_of(), held_out, **settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for gone in ("model", "checkpoint-4", "checkpoint-6"):  # as if killed behind the step after the second
        shutil.rmtree(tmp_path / "cut" / gone, ignore_errors=True)
    resumed = train(tmp_path / "cut", model_of(), held_out, resume=True, **settings)
    assert resumed.steps == whole.steps
    assert lines(tmp_path / "cut" / "validation.jsonl") == lines(tmp_path / "whole" / "validation.jsonl")
    for name in ("model", "best"):
        first, second = (load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "cut"))
        assert all(torch.equal(value, second[n]) for n, value in first.items())
    facts = [json.loads((tmp_path / run / "best" / "complete.json").read_text())["facts"] for run in ("whole", "cut")]
    assert facts[0] == facts[1]


def test_a_command_is_run_on_the_model(held_out, tmp_path):
    told: list[str] = []
    command = {"command": (*ECHO, "{model}", "{step}")}
    train(tmp_path, model_of(), held_out, validation=command)
    assert (tmp_path / "commands" / "2.txt").read_text().split()[1] == "2"
    assert int((tmp_path / "commands" / "4.txt").read_text().split()[0]) > 3  # files of a model
    assert not list(tmp_path.glob("model-at-*"))
    failing = {"command": (sys.executable, "-c", "import sys; sys.exit(3)", "{model}")}
    train(tmp_path / "failing", model_of(), held_out, notify=told.append, validation=failing)
    assert any("failed after step 2 (3)" in message for message in told)


def test_data_of_which_nothing_can_be_used_ends_the_run(tmp_path):
    path = write(tmp_path / "lost.json", [record("<image>\nWhat?", "x", video="gone.mp4")])
    with pytest.raises(TrainingDataError, match=r"none of the 1 samples of validation could be used: .*gone\.mp4"):
        train(tmp_path / "run", model_of(), path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "validation needs sources or a mixture"),
        ({"command": ("eval",)}, "must hold {model}"),
        ({"command": "eval {model}"}, "must be a list of words"),
        ({"sources": (Source("a.json"),), "mixture": "b.yaml"}, "give either"),
        ({"command": ("eval", "{model}"), "patience": 2}, "needs a loss to watch"),
    ],
)
def test_settings_that_cannot_be(settings, reason):
    with pytest.raises(ValueError, match=reason):
        ValidationConfig(**settings)


def test_validation_is_plain_values_and_back():
    config = config_of(validation=ValidationConfig(sources=(Source("a.json"),), command=("eval", "{model}")))
    assert made(TrainingConfig, json.loads(json.dumps(plain(config)))) == config


# -------------------------------------------------------------------------------------------------- averages and rates


def test_the_run_gives_the_average_and_goes_on_from_a_checkpoint(tmp_path):
    rates = {"learning_rates": {"projector": 1e-2}, "ema_decay": 0.5}
    model, seen = model_of(), []
    original = WeightAverage.on_step_end

    def noting(self, *arguments, **kwargs):
        original(self, *arguments, **kwargs)
        seen.append(weights_of(model))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightAverage, "on_step_end", noting)
        result = train(tmp_path / "whole", model, **rates)
    name = "model.multi_modal_projector.0.weight"
    want = seen[0][name]
    for weights in seen[1:]:
        want = 0.5 * want + 0.5 * weights[name]
    given = weights_of(type(model).from_pretrained(result.model))
    torch.testing.assert_close(given[name], want, atol=1e-6, rtol=0)
    assert torch.equal(weights_of(model)[name], seen[-1][name])
    train(tmp_path / "parts", model_of(), max_steps=2, save_steps=2, lr_scheduler_type="constant", **rates)
    assert (tmp_path / "parts" / "checkpoint-2" / FILE).is_file()


def rates_of(steps, **changes):
    """The rates of every step, as fractions of the peak."""
    arguments = training_arguments(config_of(**changes), output=__import__("pathlib").Path("x"), steps=steps)
    from transformers import get_scheduler

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=int(arguments.warmup_steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),
    )
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_schedules():
    found = rates_of(20, lr_scheduler_type="warmup_stable_decay", warmup_steps=4, decay_steps=0.25, min_lr_ratio=0.1)
    assert found[0] == pytest.approx(0.1)
    assert found[4:15] == pytest.approx([1.0] * 11)
    assert found[20] == pytest.approx(0.1)
    assert found[15:] == sorted(found[15:], reverse=True)
    floor = rates_of(20, lr_scheduler_type="cosine", warmup_steps=0, min_lr_ratio=0.2)
    assert (floor[0], floor[20]) == pytest.approx((1.0, 0.2))
    assert floor[10] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_lr_ratio": 0.1, "lr_scheduler_type": "linear"}, "is for lr_scheduler_type cosine"),
        ({"ema_decay": 0.9, "sharding": "zero2", "device": "auto"}, "ema_decay averages whole weights"),
        (
            {"objective": "preference", "validation": ValidationConfig(sources=(Source("a.json"),))},
            "for pairs of answers give a command",
        ),
    ],
)
def test_a_configuration_that_cannot_run_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        config_of(**changes)


@pytest.mark.parametrize("logger", ["wandb", "trackio"])
def test_a_logger_that_is_missing_is_told_before_anything_loads(logger, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == logger else object())
    with pytest.raises(MissingDependencyError, match=rf"report_to={logger} needs {logger}: pip install '{logger}'"):
        run(config_of(report_to=(logger,)), output=tmp_path)


def test_the_log_tells_speed_memory_waiting_and_the_loss_of_every_file(tmp_path):
    model = model_of()
    files = [write(tmp_path / f"{name}.json", [record("Hello", f"Hi {name}.")] * 2) for name in ("one", "other")]
    config = config_of(max_steps=4, per_device_batch_size=2)
    data = replace(config.data, sources=tuple(Source(str(file)) for file in files))
    result = run(
        replace(config, data=data), output=tmp_path / "run", model=start_of(model), progress=False, notify=print
    )
    entries = [entry for entry in result.log if "loss" in entry]
    assert all(entry["tokens_per_second"] > 0 and entry["samples_per_second"] > 0 for entry in entries)
    assert all(0 <= entry["data_wait"] <= 1 and entry["peak_memory_gb"] > 0.01 for entry in entries)
    told = [(entry["loss"], entry.get("loss/one"), entry.get("loss/other")) for entry in entries]
    assert all(any(part is not None for part in parts[1:]) for parts in told)
    for loss, one, other in told:  # answers of the same kind: the mean lies between its parts
        known = [part for part in (one, other) if part is not None]
        assert min(known) - 1e-4 <= loss <= max(known) + 1e-4


@pytest.mark.parametrize("frozen", [False, True])
def test_mfu_counts_the_operations_that_are_done(frozen):
    """A short text, so that attention's scores, which the formula leaves out, are few."""
    model = model_of().train()
    model.requires_grad_(not frozen)
    model.model.language_model.embed_tokens.requires_grad_(True)  # gradients pass through all layers
    ids = torch.randint(5, 40, (1, 12))
    labels = torch.where(torch.arange(12) < 6, -100, ids)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=labels, use_cache=False, logits_to_keep=1).loss.backward()
    last = 2 * model.lm_head.weight.numel()  # the logits that the forward gives beside those of the loss
    work = Work.of(model)
    assert 12 * work.per_token + 6 * work.per_label == pytest.approx(counter.get_total_flops() - last, rel=0.06)


def test_mfu_in_the_log():
    counted = Throughput(Work(per_token=6e9, per_label=1e9), peak_flops=1e12)
    counted.begun -= 10
    entry = counted.entry(tokens=1000, samples=2, labels=100, processes=2)
    assert entry["mfu"] == pytest.approx((6e12 + 1e11) / 10 / 2e12, rel=0.01)
