"""The model at its released size, never filled: its weights are those of a released checkpoint, name by name."""

from __future__ import annotations

import re

import pytest
import torch

from videoxl.inference.plan.footprint import kv_bytes
from videoxl.inference.plan.work import model_flops, weight_bytes
from videoxl.model.checkpoint import to_native, to_released
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.released_config import HUB_CONFIGS, native_config_dict
from videoxl.model.videoxl import VideoXLForConditionalGeneration

# Counted from the released checkpoint's parameter table, text_mlp (2 tensors, unused) left out: docs/SPEC.md 5.2
TENSORS = 807 - 2
WEIGHTS = 8_136_720_160 - 12_848_640
SYNTHESIS_WEIGHTS = 93_526_272
TOWER_WEIGHTS = 397_747_744


@pytest.fixture(scope="module")
def config() -> VideoXLConfig:
    return VideoXLConfig.from_dict(native_config_dict(HUB_CONFIGS["BAAI/Video-XL-2"], None))


@pytest.fixture(scope="module")
def shapes(config: VideoXLConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = VideoXLForConditionalGeneration(config)
    return {to_released(name): tuple(p.shape) for name, p in model.named_parameters()}


def count(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> int:
    return sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith(prefix))


def test_number_of_tensors_and_weights(shapes: dict[str, tuple[int, ...]]) -> None:
    assert len(shapes) == TENSORS
    assert count(shapes) == WEIGHTS
    assert count(shapes, "model.sae.") == SYNTHESIS_WEIGHTS
    assert count(shapes, "model.vision_tower.") == TOWER_WEIGHTS


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        (r"model\.embed_tokens\.weight", (152064, 3584)),
        (r"lm_head\.weight", (152064, 3584)),
        (r"model\.layers\.27\.self_attn\.k_proj\.bias", (512,)),
        (r"model\.layers\.0\.mlp\.gate_proj\.weight", (18944, 3584)),
        (r"model\.vision_tower\.vision_tower\.vision_model\.encoder\.layers\.25\.mlp\.fc1\.weight", (4304, 1152)),
        (r"model\.vision_tower\.vision_tower\.vision_model\.embeddings\.position_embedding\.weight", (729, 1152)),
        (r"model\.mm_projector\.0\.weight", (3584, 1152)),
        (r"model\.sae\.temporal_encoding", (4, 1152)),
        (r"model\.sae\.encoder\.3\.proj_out\.weight", (1152, 1152, 1, 1, 1)),
        (r"model\.sae\.encoder\.4\.qkv\.weight", (3456, 1152, 1)),
        (r"model\.sae\.encoder\.1\.relative_position_v\.embeddings_table", (129, 1152)),
        (r"model\.sae\.encoder\.5\.conv\.weight", (1152, 1152, 3, 3, 3)),
    ],
)
def test_names_and_shapes(pattern: str, shape: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> None:
    found = {name: s for name, s in shapes.items() if re.fullmatch(pattern, name)}
    assert list(found.values()) == [shape]


def test_renaming_is_invertible(shapes: dict[str, tuple[int, ...]]) -> None:
    assert {to_released(to_native(name)) for name in shapes} == set(shapes)
    assert len({to_native(name) for name in shapes}) == len(shapes)


def test_planned_bytes_and_operations(config: VideoXLConfig) -> None:
    assert weight_bytes(config, 2) == 2 * WEIGHTS
    assert kv_bytes(config, 1, 2) == 57_344
    # counted by hand for one frame: 26 SigLIP layers 642 GFLOP, token synthesis 52 GFLOP, within the patch embedding
    flops = model_flops(config, frames=1, tokens=1)
    assert flops["vision"] == pytest.approx(693e9, rel=0.02)
    assert flops["prefill"] == pytest.approx(13.05e9, rel=0.01)


def test_video_xl_pro_at_its_size() -> None:
    config = VideoXLConfig.from_dict(native_config_dict(HUB_CONFIGS["MINT-SJTU/Video-XL-Pro-3B"], None))
    with torch.device("meta"):
        shapes = {to_released(n): p.shape for n, p in VideoXLForConditionalGeneration(config).named_parameters()}
    assert count(shapes, "model.WindowTimeToTokenAttention.") == 4 * (2048 * 2048 + 2048)
    assert count(shapes, "model.text_mlp.") == 2048 * 2048 + 2048
    assert count(shapes, "model.sae.") == SYNTHESIS_WEIGHTS
    assert count(shapes, "model.vision_tower.") == TOWER_WEIGHTS
    text = sum(count(shapes, prefix) for prefix in ("model.embed_tokens.", "model.layers.", "model.norm."))
    assert text == 3_085_938_688  # Qwen2.5-3B, whose head is its embedding
    assert weight_bytes(config, 2) == 2 * count(shapes)
    assert kv_bytes(config, 1, 2) == 2 * 36 * 2 * 128 * 2
