"""What a run will take, said before it starts: counted where it can be, and in proportion where it is estimated."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from benchmarks.train_estimate import counted

from tests.training.records import record, write
from tests.training.stand_in import config_of
from videoxl.config import Sampling
from videoxl.model.configuration import VideoXLConfig
from videoxl.training.config.data import DataConfig
from videoxl.training.config.stages import STAGES, video_xl_2_stage4, video_xl_finetune_video
from videoxl.training.config.training import Lora
from videoxl.training.data.mixtures import Source
from videoxl.training.estimate import estimate, estimate_of, trained_model_spec
from videoxl.training.param_groups import freeze
from videoxl.training.setup import load_model_to_train

BILLION = 1e9
SMALL_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 16_000,
}
SMALL_VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_estimated_without_weights_or_data(stage):
    made = estimate(STAGES[stage](), device="h200", processes=8)
    assert sum(made.trained.values()) + sum(made.frozen.values()) == pytest.approx(8 * BILLION, rel=0.06)
    assert set(made.trained) == set(STAGES[stage]().learning_rates) - {"objective"}
    assert made.steps is None
    assert any("steps are unknown" in note for note in made.notes)
    assert made.seconds_per_step > 0
    assert json.loads(json.dumps(made.to_dict()))["total_bytes"] == made.total_bytes
    assert "fits" in str(made)


def test_sharding_and_adapters_make_it_smaller():
    stage = video_xl_2_stage4()
    whole, divided = (estimate(replace(stage, sharding=s), device="h200", processes=8) for s in ("none", "fsdp2"))
    assert (whole.fits, divided.fits) == (False, True)
    for name in ("weight_bytes", "gradient_bytes", "optimiser_bytes"):
        assert getattr(divided, name) == getattr(whole, name) // 8
    rates = {"language_model": 1e-4}
    adapted = estimate(replace(stage, lora=Lora(rank=16), learning_rates=rates), device="h200")
    assert sum(adapted.trained.values()) == 28 * 16 * (4 * 3584 + 2 * (3584 + 512) + 3 * (3584 + 18944))
    quantised = estimate(replace(stage, lora=Lora(), learning_rates=rates, quantization="nf4"), device="rtx-4090")
    assert quantised.weight_bytes < 0.45 * adapted.weight_bytes


@pytest.mark.parametrize("adapters", [False, True])
def test_parameters_are_those_that_are_trained(adapters):
    rates = {"vision_tower": 1.0, "language_model": 1.0} if not adapters else {"projector": 1.0, "language_model": 1.0}
    config = config_of(learning_rates=rates, lora=Lora(rank=2) if adapters else None)
    start = load_model_to_train(config)
    names = set(freeze(start.module, rates, adapters=adapters))
    trained = sum(p.numel() for name, p in start.module.named_parameters() if name in names)
    assert sum(estimate(config).trained.values()) == trained


def test_steps_are_counted_from_the_data(tmp_path):
    path = write(tmp_path / "data.json", [record("What?", "That.")] * 10)
    config = config_of(max_steps=None, num_train_epochs=2.0, per_device_batch_size=2, gradient_accumulation_steps=2)
    config = replace(config, data=DataConfig(sources=(Source(str(path), "first:9"),), sampling=Sampling(num_frames=8)))
    made = estimate(config, processes=2)  # 9 records are 3 batches a pass and process, 6 in all, 3 steps
    assert (made.steps, made.samples_per_step, made.frames) == (3, 8, 8)


@pytest.mark.parametrize(("batch", "steps"), [(1, 12), (4, 5), (5, 4)])
def test_batches_hold_one_kind_so_each_kind_fills_its_own(tmp_path, batch, steps):
    """9 texts, 2 videos and 1 picture: as many steps as the order of a run makes."""
    from videoxl.training.data.order import BatchOrder

    records = [record("What?", "That.")] * 9 + [record("<image>\nWhat?", "That.", video="a.mp4")] * 2
    path = write(tmp_path / "data.json", [*records, record("<image>\nWhat?", "That.", image="a.png")])
    config = config_of(max_steps=None, per_device_batch_size=batch)
    config = replace(config, data=DataConfig(sources=(Source(str(path)),)))
    names = ["text"] * 9 + ["video"] * 2 + ["image"]
    assert estimate(config).steps == steps == len(BatchOrder(12, batch, kinds=names if batch > 1 else None))


def test_deepspeed_holds_bf16_weights_and_divides_fp32_copies():
    """8.1 G weights on 8 GPUs by hand: 2 bytes of weights and gradients, and 4 + 8 of copies and moments an eighth."""
    stage = replace(video_xl_2_stage4(), sharding="zero1")
    made = estimate(stage, device="h200", processes=8)
    learnt, rest = sum(made.trained.values()), sum(made.frozen.values())
    assert made.weight_bytes == 2 * (learnt + rest)
    assert made.gradient_bytes == 2 * learnt
    assert made.optimiser_bytes == 12 * learnt // 8
    third = estimate(replace(stage, sharding="zero3"), device="h200", processes=8)
    assert (third.weight_bytes, third.gradient_bytes) == (made.weight_bytes // 8, made.gradient_bytes // 8)
    wide = estimate(replace(stage, precision="fp32"), device="h200", processes=8)
    assert (wide.weight_bytes, wide.optimiser_bytes) == (4 * (learnt + rest), made.optimiser_bytes)


@pytest.mark.slow
def test_bytes_are_those_that_a_step_holds():
    """Every storage of a step is counted, on tensors without values: a model of a seventh of the width, two layers."""
    stage = video_xl_2_stage4()
    spec = trained_model_spec(stage)
    values = spec.config.to_dict()
    values["text_config"] |= SMALL_TEXT
    values["vision_config"] |= SMALL_VISION
    values["text_config"].pop("layer_types", None)
    spec = replace(spec, config=VideoXLConfig.from_dict({**values, "video_token_id": 5, "image_token_id": 5}))
    sampling = replace(stage.data.sampling, max_frames=16)
    config = replace(stage, per_device_batch_size=1, data=replace(stage.data, sampling=sampling))
    said = estimate_of(config, spec, device="h200")
    text = said.tokens - said.visual_tokens
    here = counted(config, spec, said.frames, text - min(text, 256), min(text, 256))
    assert (said.weight_bytes, said.gradient_bytes) == (here["weights"], here["gradients"])
    assert said.optimiser_bytes == here["optimiser"]
    assert said.total_bytes == pytest.approx(here["peak"], rel=0.1)


def test_what_is_offloaded_is_not_on_the_gpu():
    stage = replace(video_xl_2_stage4(), sharding="zero2", offload="optimizer")
    made = estimate(stage, device="h200", processes=8)
    assert made.optimiser_bytes == 0
    assert made.weight_bytes == estimate(replace(stage, offload="none"), device="h200", processes=8).weight_bytes


def test_weights_that_are_gathered_as_one_count():
    stage = replace(video_xl_finetune_video(), sharding="fsdp2")
    made = estimate(stage, device="h200", processes=8)
    learnt, rest = sum(made.trained.values()), sum(made.frozen.values())
    assert made.gathered_bytes == 2 * (2 * learnt + rest)
    assert made.total_bytes - made.activation_bytes > made.gathered_bytes
    assert "gathered for a step" in str(made)
