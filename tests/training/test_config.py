"""Settings: what they may be, by name, and what is said of those that may not."""

from __future__ import annotations

import json

import pytest

from tests.training.stand_in import config_of
from videoxl.config import BeaconPrefill, ChunkedPrefill, Sampling
from videoxl.training.config.overrides import changed, differences, made, plain, with_settings
from videoxl.training.config.training import Lora, TrainingConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": {"head": 1.0}}, "learning_rates has no group head; parameter groups: vision_tower, "),
        ({"learning_rates": {}}, "learning_rates is empty, so nothing would be trained"),
        ({"learning_rates": {"projector": 0.0}}, "learning_rates.projector must be a number above 0, got 0.0"),
        ({"per_device_batch_size": 0}, "per_device_batch_size must be a whole number of at least 1, got 0"),
        ({"max_steps": 2.5}, "max_steps must be a whole number"),
        ({"num_train_epochs": float("nan")}, "num_train_epochs must be a number above 0, got nan"),
        ({"betas": (0.9, 1.0)}, "betas must be a list of 2 numbers, each at least 0 and below 1, got .*1.0"),
        ({"max_skipped_fraction": 2.0}, "max_skipped_fraction must be a number at least 0 and at most 1"),
        ({"lora": Lora(), "learning_rates": {"projector": 1.0}}, "give learning_rates.language_model for the adapters"),
        ({"quantization": "nf4"}, "quantization='nf4' holds weights that cannot be trained: add lora"),
        ({"lora": Lora(), "objective": "synthesis"}, "objective='synthesis' trains no language model"),
        ({"lora": Lora(), "vision_tower": "clip"}, "lora adapts a whole model: leave out vision_tower"),
        (
            {"prefill": BeaconPrefill(ratio=(2, 4), mix="sequence"), "per_device_batch_size": 2},
            "per_device_batch_size must be 1, got 2",
        ),
        ({"report_to": ("mlflow",)}, r"report_to\[0\] must be one of tensorboard, trackio, wandb, got 'mlflow'"),
        ({"device": "cuda:1"}, "device must be auto or cpu, got 'cuda:1'.*CUDA_VISIBLE_DEVICES"),
        ({"sharding": "zero2"}, "sharding='zero2' needs GPUs"),
        ({"name": ""}, "a training run needs a name"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be a number at least 0 and below 1"),
        (
            {"target_modules": ("q", "beacon_q_proj")},
            r"target_modules must be one or more of q_proj, k_proj, .*, got \('q', 'beacon_q_proj'\)",
        ),
    ],
)
def test_adapters(values, message):
    with pytest.raises(ValueError, match=message):
        Lora(**values)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["data.num_workers=2"], {"data.num_workers": 2}),
        (["learning_rates.projector=1e-5"], {"learning_rates.projector": 1e-5}),
        (["learning_rates.projector=none"], {"learning_rates.projector": None}),
        (["learning_rates.beacon=2"], {"learning_rates.beacon": 2.0}),
        (["max_steps=1e3", "per_device_batch_size=4"], {"max_steps": 1000, "per_device_batch_size": 4}),
        (["max_grad_norm=none"], {"max_grad_norm": None}),
        (["betas=[0.9, 0.95]"], {"betas": [0.9, 0.95]}),
        (["prefill=chunked:chunk_size=8,step_size=2"], {"prefill": "chunked:chunk_size=8,step_size=2"}),
        (["prefill=beacon:ratio=2+4,mix=random"], {"prefill": "beacon:ratio=2+4,mix=random"}),
        (
            ["data.sampling.fps=2", "data.sampling.max_frames=16"],
            {"data.sampling.fps": 2.0, "data.sampling.max_frames": 16},
        ),
        (["report_to=tensorboard"], {"report_to": ["tensorboard"]}),
        (["gradient_checkpointing=true"], {"gradient_checkpointing": True}),
        (["model=some/where else"], {"model": "some/where else"}),
        (["name=7"], {"name": "7"}),
    ],
    ids=str,
)
def test_single_settings(assignments, expected):
    before = config_of()
    found = differences(plain(before), plain(with_settings(before, assignments)))
    assert {name: new for name, (_, new) in found.items()} == expected


def test_settings_that_hold_settings():
    assert with_settings(config_of(), ["lora.rank=4", "lora.target_modules=[q_proj]"]).lora == Lora(
        rank=4, target_modules=("q_proj",)
    )
    assert with_settings(config_of(lora=Lora()), ["lora=none"]).lora is None
    sources = with_settings(config_of(), ["data.sources=[a.json, {path: b.json, sampling: 'first:2'}]"]).data.sources
    assert [(source.path, source.sampling) for source in sources] == [("a.json", "all"), ("b.json", "first:2")]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("data.num_worker=2", "data has no setting 'num_worker'; did you mean num_workers"),
        ("learning_rate=1", "TrainingConfig has no setting 'learning_rate'; did you mean learning_rates"),
        ("num_workers", "--set takes key=value, got 'num_workers'"),
        ("data.num_workers=two", "data.num_workers must be a whole number of at least 0, got 'two'"),
        ("per_device_batch_size=1.5", "per_device_batch_size must be a whole number of at least 1, got 1.5"),
        ("num_train_epochs=yes", "num_train_epochs must be a number above 0, got True"),
        ("gradient_checkpointing=1", "gradient_checkpointing must be true or false, got 1"),
        ("precision=fp8", "precision must be one of fp32, bf16, got 'fp8'"),
        ("prefill=nonsense", "unknown prefill strategy 'nonsense'"),
        ("prefill=selective", "prefill must be one of full, chunked, beacon with its settings"),
        ("learning_rates=3", "learning_rates is a table: set its entries, learning_rates.NAME="),
        ("data=x", "data has settings of its own"),
        ("betas=0.9", "betas must be a list of 2"),
        ("data.labels=all", "data.labels must be one of"),
    ],
)
def test_a_wrong_setting_is_explained(assignment, message):
    with pytest.raises(ValueError, match=message):
        with_settings(config_of(), [assignment])


def test_a_setting_is_given_once():
    with pytest.raises(ValueError, match="--set per_device_batch_size is given twice"):
        with_settings(config_of(), ["per_device_batch_size=1", "per_device_batch_size=2"])


def test_a_config_is_plain_values_and_back():
    config = config_of(
        prefill=ChunkedPrefill(chunk_size=8),
        lora=Lora(rank=3),
        report_to=("trackio",),
        data={"sampling": Sampling(num_frames=8), "labels": "answers"},
    )
    assert made(TrainingConfig, json.loads(json.dumps(plain(config)))) == config


def test_changes_from_a_file_go_inside():
    found = changed(config_of(), {"data": {"num_workers": 3}, "learning_rates": {"projector": "none", "beacon": 1}})
    assert found.data.num_workers == 3
    assert found.learning_rates == {"language_model": 1e-3, "beacon": 1.0}


def test_missing_settings_are_named():
    with pytest.raises(ValueError, match="TrainingConfig lacks model"):
        made(TrainingConfig, {"name": "x"})
