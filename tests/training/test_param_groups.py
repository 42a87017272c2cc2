"""Which weights belong to which part, and adapters in their place."""

from __future__ import annotations

import re
import shutil

import pytest
import torch

import videoxl
from tests.conftest import require
from tests.model.builders import pro_model, small_beacon_model, small_model
from tests.model.random_tiny import tiny_tokenizer
from tests.training.stand_in import config_of, data_of, weights_of
from videoxl.config import BeaconPrefill
from videoxl.hf.processing import VideoXLProcessor
from videoxl.training.config.training import LORA_TARGETS, PARAM_GROUPS, Lora
from videoxl.training.param_groups import add_adapters, freeze, group_of, optimizer_groups, target_pattern, weight_dtype
from videoxl.training.run import run


def test_every_weight_belongs_to_one_part():
    found = {
        group_of(name) for model in (small_model(), small_beacon_model(), pro_model()) for name in weights_of(model)
    }
    assert found == set(PARAM_GROUPS) - {"objective"}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.language_model.layers.3.self_attn.q_proj.weight", "language_model"),
        ("model.language_model.layers.3.self_attn.beacon_q_proj.bias", "beacon"),
        ("model.language_model.beacon_embed_tokens.weight", "beacon"),
        ("lm_head.weight", "language_model"),
        ("base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight", "language_model"),
        ("base_model.model.model.multi_modal_projector.modules_to_save.default.linear_1.weight", "projector"),
        ("model.model.token_synthesis.temporal_encoding", "token_synthesis"),
        ("decoder.weight", "objective"),
    ],
)
def test_part_of(name, part):
    assert group_of(name) == part


def test_freezing_says_what_is_trained():
    model = small_beacon_model()
    trained = freeze(model, {"projector": 1.0, "beacon": 1.0})
    assert trained == [name for name, p in model.named_parameters() if p.requires_grad]
    assert {group_of(name) for name in trained} == {"projector", "beacon"}
    assert len([name for name in trained if "beacon" in name]) == 2 * 3 * 2 + 1  # layers, q k v, weight and bias; token


def test_a_part_that_the_model_lacks_is_an_error():
    with pytest.raises(ValueError, match="names beacon, which this model lacks; it has language_model, projector, "):
        freeze(small_model(), {"beacon": 1.0, "projector": 1.0})


def test_groups_have_the_rate_of_their_part_and_decay_for_matrices_only():
    model = small_model()
    rates = {"projector": 1e-3, "language_model": 1e-5}
    freeze(model, rates)
    groups = optimizer_groups(model, rates, 0.1)
    assert {(g["part"], g["lr"], g["weight_decay"], p.ndim > 1) for g in groups for p in g["params"]} == {
        ("projector", 1e-3, 0.1, True),
        ("projector", 1e-3, 0.0, False),
        ("language_model", 1e-5, 0.1, True),
        ("language_model", 1e-5, 0.0, False),
    }
    assert sum(len(g["params"]) for g in groups) == len([p for p in model.parameters() if p.requires_grad])


def test_adapters_go_to_the_language_model_alone():
    pattern = re.compile(target_pattern(LORA_TARGETS))
    names = [name for name, _ in small_beacon_model().named_modules() if pattern.fullmatch(name)]
    layer = "model.language_model.layers.{}."
    attention = [f"self_attn.{n}_proj" for n in "qkvo"]
    feed_forward = [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    assert sorted(names) == sorted(layer.format(n) + name for n in (0, 1) for name in attention + feed_forward)


def test_weights_are_held_in_what_was_asked_for():
    assert weight_dtype(config_of(precision="bf16")) == torch.float32
    assert weight_dtype(config_of(precision="bf16", lora=Lora())) == torch.bfloat16
    assert weight_dtype(config_of(precision="bf16", lora=Lora(), weight_dtype="fp32")) == torch.float32
    assert weight_dtype(config_of(weight_dtype="bf16")) == torch.bfloat16


@pytest.fixture
def folder(tmp_path):
    """Saves a model where ``config.model`` can name it."""

    def save(model):
        target = tmp_path / "start"
        model.save_pretrained(target)
        VideoXLProcessor.from_config(model.config, tiny_tokenizer()).save_pretrained(target)
        return str(target)

    return save


def adapted(folder, model, tmp_path, **changes):
    config = config_of(
        **{"model": folder(model), "lora": Lora(rank=4, target_modules=("q_proj", "down_proj")), **changes}
    )
    groups = 6 if model.config.beacon_param else 1
    return run(
        config, output=tmp_path / "run", data=data_of(model, groups=groups), progress=False, notify=lambda _: None
    )


def test_adapters_train_and_the_merged_model_loads(folder, tmp_path):
    require("peft")
    model = small_model()
    before = weights_of(model)
    result = adapted(folder, model, tmp_path, learning_rates={"language_model": 1e-2, "projector": 1e-3}, max_steps=3)
    assert {group_of(name) for name in result.trained} == {"language_model", "projector"}
    assert all(".lora_" in name or ".modules_to_save." in name for name in result.trained)
    after = weights_of(videoxl.load(str(result.model), device="cpu").model)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "multi_modal_projector" in name} | {
        f"model.language_model.layers.{n}.{name}_proj.weight" for n in (0, 1) for name in ("self_attn.q", "mlp.down")
    }
    change = (
        after["model.language_model.layers.0.mlp.down_proj.weight"]
        - before["model.language_model.layers.0.mlp.down_proj.weight"]
    )
    assert int((torch.linalg.svdvals(change) > 1e-6).sum()) == 4  # the rank


def test_adapters_leave_beacons_alone_unless_asked(folder, tmp_path):
    require("peft")
    model = small_beacon_model()
    before = weights_of(model)
    reading = {"prefill": BeaconPrefill(ratio=(2, 4), mix="random"), "max_steps": 2, "gradient_checkpointing": True}
    rates = {"language_model": 1e-2, "beacon": 1e-2}
    result = adapted(folder, model, tmp_path, learning_rates=rates, **reading)
    after = weights_of(videoxl.load(str(result.model), device="cpu").model)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {group_of(name) for name in moved} == {"language_model", "beacon"}
    assert not [name for name in result.trained if "beacon" in name and "lora" in name]
    beacons = {name for name in before if ".beacon_" in name}
    last = {f"model.language_model.layers.1.self_attn.beacon_q_proj.{kind}" for kind in ("weight", "bias")}
    assert moved & beacons == beacons - last


def test_adapters_resume_bit_for_bit(folder, tmp_path):
    require("peft")
    model = small_model()
    start = folder(model)
    config = config_of(
        model=start, lora=Lora(rank=2, dropout=0.1), learning_rates={"language_model": 1e-2}, save_steps=2
    )
    whole = run(config, output=tmp_path / "whole", data=data_of(model), progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for left in ("checkpoint-4", "model", "adapters"):
        shutil.rmtree(tmp_path / "again" / left)
    again = run(
        config, output=tmp_path / "again", resume=True, data=data_of(model), progress=False, notify=lambda _: None
    )
    losses = [[entry["loss"] for entry in result.log if "loss" in entry] for result in (whole, again)]
    assert losses[0] == losses[1]
    one, other = (weights_of(videoxl.load(str(result.model), device="cpu").model) for result in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_adapters_on_a_model_in_four_bits(folder, tmp_path):
    """Merged into the weights as they were before they were quantised."""
    require("peft")
    require("bitsandbytes")
    model = small_model(text={"hidden_size": 64, "intermediate_size": 128})
    before = weights_of(model)
    result = adapted(folder, model, tmp_path, learning_rates={"language_model": 1e-2}, quantization="nf4", max_steps=2)
    after = weights_of(videoxl.load(str(result.model), device="cpu").model)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {
        f"model.language_model.layers.{n}.{name}_proj.weight" for n in (0, 1) for name in ("self_attn.q", "mlp.down")
    }


def test_adapters_can_be_added_to_a_module_by_hand():
    require("peft")
    wrapped = add_adapters(small_model(), Lora(rank=2), {"language_model": 1.0})
    trained = freeze(wrapped, {"language_model": 1.0}, adapters=True)
    assert len(trained) == 2 * 7 * 2  # layers, targets, A and B
