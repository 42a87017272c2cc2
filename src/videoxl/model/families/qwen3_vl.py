"""Qwen3-VL: pairs of frames of any size, each with its time; positions in time, height and width; dense variants."""

from __future__ import annotations

from collections.abc import Mapping

from videoxl.config import FullPrefill, PrefillStrategy, StateKVPrefill
from videoxl.errors import CheckpointError
from videoxl.model.families.family import (
    Chat,
    Family,
    GridSizes,
    JsonObject,
    OwnFormat,
    PrefillSupport,
    ReleasedRatios,
    TokenLayout,
    Vision,
    carried_state,
)

VIDEO_PIXELS, IMAGE_PIXELS = (4096, 25_165_824), (65_536, 16_777_216)
"""Fewest and most pixels of a whole video, and of a still picture, in the published processors."""


def _tokens(config: GridSizes) -> int:
    rows, columns = config.visual_grid
    return rows * columns


def _read(said: JsonObject, processor: Mapping[str, JsonObject]) -> JsonObject:
    """From ``config.json`` and the processor's settings, by kind of input, to fields of our configuration."""
    video, image = processor.get("video", {}), processor.get("image", {})
    vision, text = dict(said.get("vision_config") or {}), dict(said.get("text_config") or {})
    for name, pixels in (("patch_size", 16), ("temporal_patch_size", 2), ("merge_size", 2)):
        own = vision.get(name.replace("merge_size", "spatial_merge_size"), pixels)
        if video.get(name, own) != own:
            raise CheckpointError(f"the processor says {name}={video[name]!r}, config.json says {own!r}")
    cap = int(video.get("max_video_tokens", 768)) if video.get("cap_pixels_per_frame") else None
    text.setdefault("tie_word_embeddings", bool(said.get("tie_word_embeddings", False)))
    return {
        "vision_config": {**vision, "model_type": "qwen3_vl_vision"},
        "text_config": {**text, "model_type": "qwen3_vl_text"},
        "video_token_id": said.get("video_token_id", 151656),
        "image_token_id": said.get("image_token_id", 151655),
        "frames_per_group": vision.get("temporal_patch_size", 2),
        "video_pixels": _edges(video, VIDEO_PIXELS),
        "image_pixels": _edges(image, IMAGE_PIXELS),
        "frame_token_cap": cap,
        "image_mean": video.get("image_mean") or QWEN3_VL.vision.image_mean,
        "image_std": video.get("image_std") or QWEN3_VL.vision.image_std,
    }


def _edges(settings: JsonObject, otherwise: tuple[int, int]) -> tuple[int, int]:
    size = settings.get("size") or {}
    fewest = size.get("shortest_edge") or settings.get("min_pixels") or otherwise[0]
    most = size.get("longest_edge") or settings.get("max_pixels") or otherwise[1]
    return fewest, most


def _full_prefill(_: ReleasedRatios) -> PrefillStrategy:
    return FullPrefill()


def _published(hidden: int, inner: int, layers: int, heads: int, *, large_tower: bool, tied: bool) -> JsonObject:
    """The ``config.json`` of a published size, as far as sizes go."""
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "depth": 27, "deepstack_visual_indexes": [8, 16, 24]}
    small = {"hidden_size": 1024, "intermediate_size": 4096, "depth": 24, "deepstack_visual_indexes": [5, 11, 17]}
    return {
        "model_type": "qwen3_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": tied,
        "vision_config": {**(tower if large_tower else small), "num_heads": 16, "out_hidden_size": hidden},
        "text_config": {
            "vocab_size": 151_936,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262_144,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
            "tie_word_embeddings": tied,
        },
    }


QWEN3_VL = Family(
    name="qwen3-vl",
    title="Qwen3-VL",
    tokens=TokenLayout(
        frames_per_group=2,
        time_format="<{:.1f} seconds>",
        time_of="middle",
        opening="<|vision_start|>",
        closing="<|vision_end|>",
        keeps_short_group=True,
        tokens_per_group=_tokens,
        position_dimensions=3,
    ),
    vision=Vision(
        tower="qwen3_vl_vision",
        tower_title="Qwen3-VL's own",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        stills="picture",
        any_size=True,
        layers_at="blocks.",
        patches_at="patch_embed.proj.weight",
        inner_at="mlp.linear_fc1.weight",
    ),
    chat=Chat(system=None, before_question=""),
    prefills=(PrefillSupport(FullPrefill), PrefillSupport(StateKVPrefill, refuse_extend=carried_state)),
    default_prefill=_full_prefill,
    several_videos=True,
    two_levels=True,
    own_format=OwnFormat(
        model_type="qwen3_vl",
        read=_read,
        hub={
            "Qwen/Qwen3-VL-2B-Instruct": _published(2048, 6144, 28, 16, large_tower=False, tied=True),
            "Qwen/Qwen3-VL-4B-Instruct": _published(2560, 9728, 36, 32, large_tower=False, tied=True),
            "Qwen/Qwen3-VL-8B-Instruct": _published(4096, 12288, 36, 32, large_tower=True, tied=False),
            "Qwen/Qwen3-VL-32B-Instruct": _published(5120, 25600, 64, 64, large_tower=True, tied=False),
        },
    ),
)
