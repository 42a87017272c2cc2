"""How large the embedded models are, and weights to begin with."""

from __future__ import annotations

from typing import Any

import torch
from transformers import SiglipConfig, SiglipModel

from videoxl.config import TINY, TINY_V1
from videoxl.model.configuration import CLIP_MEAN, CLIP_STD, VIDEO_XL, VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration

IMAGE, PATCH = 48, 8
GRID = 4
"""Side of the token grid; 2x2 pooling leaves four tokens to a group."""
VISION_WIDTH, VISION_LAYERS = 96, 4
TEXT_WIDTH, TEXT_LAYERS = 128, 5
CAPTION_LENGTH = 16


def text_config(tokenizer: Any, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 256,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _tower(kind: str, layers: int) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": IMAGE,
        "patch_size": PATCH,
    }


def model_config(tokenizer: Any, name: str = TINY) -> VideoXLConfig:
    """The sizes of an embedded model, and what of the released ones they stand for.

    ``tiny``: Video-XL-2, a SigLIP without its last layer, four frames to a group. ``tiny-v1``: Video-XL, a CLIP of
    which the last layer is not used, no timestamps, nine tokens to a frame, windows of 16 frames.
    """
    if name == TINY:
        return VideoXLConfig(
            text_config=text_config(tokenizer, len(tokenizer)),
            vision_config=_tower("siglip_vision_model", VISION_LAYERS - 1) | {"vision_use_head": False},
            token_grid=GRID,
            tie_word_embeddings=True,
            video_token_id=tokenizer.convert_tokens_to_ids("<|vision_pad|>"),
            image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        )
    if name == TINY_V1:
        vocabulary = len(tokenizer) + 1  # the last id stands for visual tokens
        return VideoXLConfig(
            family=VIDEO_XL,
            text_config=text_config(tokenizer, vocabulary),
            vision_config=_tower("clip_vision_model", VISION_LAYERS) | {"hidden_act": "quick_gelu"},
            frames_per_group=1,
            token_grid=IMAGE // PATCH,
            tie_word_embeddings=True,
            vision_select_layer=-2,
            time_format="",
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
            video_token_id=vocabulary - 1,
            image_token_id=vocabulary - 1,
            beacon_param=("q", "k", "v"),
            beacon_window=144,
            beacon_ratio=(8,),
            image_aspect_ratio="anyres",
            image_grid_pinpoints=[[48, 96], [96, 48], [96, 96]],
        )
    raise ValueError(f"there is no embedded model {name!r}; there are {TINY} and {TINY_V1}")


def fresh_model(config: VideoXLConfig, *, seed: int = 0) -> VideoXLForConditionalGeneration:
    """Untrained weights, scaled so that every layer passes on about as much as it gets."""
    model = VideoXLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    language = model.model.language_model
    with torch.no_grad():
        for name, parameter in language.named_parameters():
            if parameter.ndim == 2:
                std = 0.05 if "embed" in name else parameter.shape[1] ** -0.5
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    ends = config.text_config
    model.generation_config.eos_token_id = ends.eos_token_id  # type: ignore[union-attr]
    model.generation_config.pad_token_id = ends.pad_token_id  # type: ignore[union-attr]
    return model


def siglip(tokenizer: Any) -> SiglipModel:
    """The SigLIP that ``tiny`` gets its vision tower from: four layers, of which the tower keeps three."""
    vision = _tower("siglip_vision_model", VISION_LAYERS)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CAPTION_LENGTH,
        "projection_size": VISION_WIDTH,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))


def take_tower(model: Any, pictures: Any) -> None:
    """Give ``model`` the vision tower of a model of pictures and texts; the layers that it has, and no head."""
    source = pictures.vision_model.state_dict()
    tower = model.model.vision_tower
    wanted = tower.state_dict()
    tower.load_state_dict({name: source[name] for name in wanted})
