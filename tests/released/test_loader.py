"""``load_pretrained_model`` loads what released scripts hand it, and refuses what it cannot."""

from __future__ import annotations

import json

import pytest
import torch

from tests.model.builders import small_model, write_released
from tests.released.quick_start_v1 import SIDE, write_checkpoint
from videoxl.errors import CheckpointError
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.convert import convert
from videoxl.model.families.video_xl import CLIP_MEAN, CLIP_STD
from videoxl.released.loader import load_pretrained_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("v1") / "Video_XL")


def load(path, **settings):
    return load_pretrained_model(str(path), None, "llava_qwen", **{"device_map": "cpu", **settings})


def test_what_comes_back(folder):
    tokenizer, model, processor, longest = load(folder)
    assert (model.dtype, model.device.type, model.training) == (torch.float16, "cpu", False)
    assert longest == 32768
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == len(tokenizer) + 8
    assert processor.size["shortest_edge"] == processor.crop_size["height"] == SIDE
    assert tuple(processor.image_mean) == CLIP_MEAN
    assert tuple(processor.image_std) == CLIP_STD
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id


def test_settings_reach_the_model(folder):
    model = load(folder, torch_dtype=torch.float32, attn_implementation="eager", multimodal=True)[1]
    assert model.dtype == torch.float32
    assert model.config._attn_implementation == "eager"


def test_released_keys_can_be_overwritten(folder):
    model = load(folder, overwrite_config={"mm_spatial_pool_stride": 4, "mm_spatial_pool_mode": "max"})[1]
    assert (model.config.pool_stride, model.config.pool_mode, model.config.tokens_per_group) == (4, "max", 36)


def test_a_configuration_can_be_given(folder):
    config = VideoXLConfig.from_pretrained(folder)
    config.beacon_window = 288
    assert load(folder, customized_config=config)[1].config.beacon_window == 288


def test_the_processor_file_beside_the_vision_tower_is_used(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    processor = load(folder)[2]
    processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(folder / "vision_tower")
    assert tuple(load(folder)[2].image_mean) == (0.1, 0.2, 0.3)


def test_our_own_layout_gives_the_same_weights(folder, tmp_path):
    convert(str(folder), str(tmp_path / "ours"), to="videoxl")
    ours, released = load(tmp_path / "ours")[1], load(folder)[1]
    for (name, a), (other, b) in zip(ours.named_parameters(), released.named_parameters()):
        assert name == other
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="overwrite_config holds released keys"):
        load(tmp_path / "ours", overwrite_config={"mm_spatial_pool_stride": 4})


def test_a_base_model_is_refused(folder):
    with pytest.raises(ValueError, match="model_base='vicuna': merge adapters into the model first"):
        load_pretrained_model(str(folder), "vicuna", "llava_qwen_lora")


def test_a_checkpoint_of_another_system_is_refused(tmp_path):
    folder = write_released(tmp_path / "Video-XL-2", small_model())
    tower = json.loads((folder / "vision_tower" / "config.json").read_text())
    (folder / "vision_tower" / "config.json").write_text(json.dumps({**tower, "model_type": "blip_vision_model"}))
    with pytest.raises(CheckpointError, match="the vision tower is a 'blip_vision_model'; known are"):
        load(folder)


def test_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such model folder"):
        load(tmp_path / "nowhere")
