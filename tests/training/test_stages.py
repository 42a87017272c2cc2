"""Every stage at a size that runs in a second: real files, real reading, the loss falls, exactly its parts move."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import videoxl
from tests import media
from tests.model.builders import small_beacon_model, small_model
from tests.model.random_tiny import tiny_tokenizer
from tests.training.stand_in import weights_of
from videoxl.config import BeaconPrefill, ChunkedPrefill, Sampling
from videoxl.hf.processing import VideoXLProcessor
from videoxl.training.config.overrides import differences, made, plain
from videoxl.training.config.stages import STAGES, video_xl_2_stage3, video_xl_2_stage4, video_xl_finetune_video
from videoxl.training.data.mixtures import Source
from videoxl.training.data.read_sample import PictureReader
from videoxl.training.param_groups import group_of
from videoxl.training.run import run
from videoxl.training.setup import TrainingModel

EVERYTHING = {"vision_tower", "projector", "language_model"}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Two videos and three questions, in LLaVA's format."""
    folder = tmp_path_factory.mktemp("records")
    for number in (0, 1):
        media.write_video(folder / f"{number}.mp4", frames=24, fps=2, size=(64, 48))
    turns = [("What is shown?", "A number."), ("Is it night?", "No."), ("How many are there?", "Two of them.")]
    lines = [
        {
            "id": f"record-{n}",
            "video": f"{n % 2}.mp4",
            "conversations": [{"from": "human", "value": f"<image>\n{q}"}, {"from": "gpt", "value": a}],
        }
        for n, (q, a) in enumerate(turns)
    ]
    (folder / "records.json").write_text(json.dumps(lines))
    return folder / "records.json"


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """Every file is really read, but not again in every pass: to start its decoder takes longer than a step here."""
    read, known = PictureReader.read, {}

    def once(self, path, kind, scale=1.0):
        if (path, kind, scale) not in known:
            known[path, kind, scale] = read(self, path, kind, scale)
        return known[path, kind, scale]

    monkeypatch.setattr(PictureReader, "read", once)


def small(stage, records, **changes):
    """The stage's own settings, on three records and with rates for small models."""
    config = STAGES[stage]()
    sampling = Sampling(fps=1.0, max_frames=8)
    data = replace(config.data, mixture=None, sources=(Source(str(records)),), sampling=sampling, num_workers=0)
    return replace(
        config,
        data=data,
        learning_rates=dict.fromkeys(config.learning_rates, 2e-2 if len(config.learning_rates) == 1 else 3e-3),
        per_device_batch_size=3 if config.per_device_batch_size > 1 else 1,
        gradient_accumulation_steps=1 if config.per_device_batch_size > 1 else 3,
        max_steps=10,
        precision="fp32",
        device="cpu",
        **changes,
    )


def start_with(model, config):
    from videoxl.training.setup import _module, prepare

    tokenizer = tiny_tokenizer()
    model = prepare(model, config)
    return TrainingModel(
        model, _module(model, config), tokenizer, VideoXLProcessor.from_config(model.config, tokenizer)
    )


def model_for(stage):
    if stage.startswith("video_xl_2"):
        return small_model()
    return small_beacon_model(beacon_param=()) if stage == "video_xl_pretrain" else small_beacon_model()


PARTS = {
    "video_xl_pretrain": {"projector"},
    "video_xl_finetune_image": EVERYTHING | {"beacon"},
    "video_xl_finetune_video": EVERYTHING | {"beacon"},
    "video_xl_2_stage1": {"token_synthesis"},
    "video_xl_2_stage2": {"projector"},
    "video_xl_2_stage3": EVERYTHING | {"token_synthesis"},
    "video_xl_2_stage4": EVERYTHING | {"token_synthesis"},
}


def test_every_stage_is_tested():
    assert PARTS.keys() == STAGES.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_and_moves_what_it_should(stage, records, tmp_path):
    config = small(stage, records)
    if isinstance(config.prefill, BeaconPrefill):  # a window of 4 frames of 4 tokens
        ratios = tuple(r for r in config.prefill.ratios if r <= 16)
        config = replace(config, prefill=replace(config.prefill, window=16, ratio=ratios))
    model = model_for(stage)
    before = weights_of(model)
    result = run(config, output=tmp_path, model=start_with(model, config), progress=False)
    losses = [entry["loss"] for entry in result.log if "loss" in entry]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])  # a projector alone cannot do much for a drawn model
    assert result.bad_samples == result.skipped_steps == 0
    engine = videoxl.load(str(result.model), device="cpu")
    moved = {group_of(n) for n, value in weights_of(engine.model).items() if not torch.equal(value, before[n])}
    assert moved == PARTS[stage]
    assert {group_of(name) for name in result.trained} == set(config.learning_rates)


def test_stage_4_under_the_chunk_mask(records, tmp_path):
    config = small("video_xl_2_stage4", records, prefill=ChunkedPrefill(chunk_size=2, step_size=1))
    config = replace(config, max_steps=4)
    start = start_with(small_model(), config)
    assert run(config, output=tmp_path, model=start, progress=False).steps == 4


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_whole_config_that_survives_being_written(stage):
    config = STAGES[stage]()
    assert config.name == stage
    assert made(type(config), json.loads(json.dumps(plain(config)))) == config
    assert "our choice" in str(STAGES[stage].__doc__) or ".sh``" in str(STAGES[stage].__doc__)


def test_a_stage_differs_from_the_one_before_where_it_says():
    changed = differences(plain(video_xl_2_stage3()), plain(video_xl_2_stage4()))
    assert set(changed) == {
        "name",
        "model",
        "data.mixture",
        "data.sampling.max_fps",
        "data.sampling.max_frames",
        "data.max_length",
        "data.num_workers",
        "save_steps",
    }


def test_released_numbers():
    config = video_xl_finetune_video()
    assert config.prefill == BeaconPrefill(ratio=(2, 4, 8), mix="random", window=1440)
    assert set(config.learning_rates.values()) == {1e-5}
    assert (
        config.num_train_epochs,
        config.per_device_batch_size,
        config.gradient_accumulation_steps,
        config.warmup_steps,
    ) == (3.0, 1, 8, 0.03)
    assert STAGES["video_xl_finetune_image"]().prefill.ratio == (2, 4, 8, 12, 16)
    assert STAGES["video_xl_pretrain"]().learning_rates == {"projector": 5e-4}
