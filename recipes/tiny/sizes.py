"""How large the embedded models are, and weights to begin with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModelWithProjection, SiglipConfig, SiglipModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from videoxl.config import TINY, TINY_V1
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families.video_xl import CLIP_MEAN, CLIP_STD, VIDEO_XL
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
            family=VIDEO_XL.name,
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


EMBEDDINGS = 0.3
"""Standard deviation that the embeddings of words begin with."""


def fresh_model(config: VideoXLConfig, tokenizer: Any, *, seed: int = 0) -> VideoXLForConditionalGeneration:
    """Untrained weights. Layers add nothing yet, so that what a token is can be seen from every one of them.

    A word begins the same with and without the space in front of it.
    """
    model = VideoXLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    language = model.model.language_model
    with torch.no_grad():
        for name, parameter in language.named_parameters():
            if parameter.ndim == 2:
                std = EMBEDDINGS if "embed" in name else parameter.shape[1] ** -0.5
                std = 0.0 if name.endswith(("o_proj.weight", "down_proj.weight")) else std
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
        language.norm.weight.fill_(0.1)  # embeddings are the output's too: keeps its first guesses mild
        for layer in language.layers[1:]:
            alike(layer.self_attn, generator)
        table = language.embed_tokens.weight
        for word, number in tokenizer.get_vocab().items():
            spaced = tokenizer.convert_tokens_to_ids(f"\u0120{word}")
            if word.isalpha() and len(word) > 1 and spaced is not None and spaced != tokenizer.unk_token_id:
                table[number] = table[spaced]
    ends = config.text_config
    model.generation_config.eos_token_id = ends.eos_token_id  # type: ignore[union-attr]
    model.generation_config.pad_token_id = ends.pad_token_id  # type: ignore[union-attr]
    return model


def alike(attention: Any, generator: torch.Generator) -> None:
    """Let a token look at those that are like it: each query head begins half as its key head, half at random.

    Finding what is asked for is what these models are for, and by itself it begins late (Trockman and Kolter, 2023,
    "Mimetic Initialization of Self-Attention Layers").
    """
    keys = attention.k_proj.weight.unflatten(0, (-1, attention.head_dim))
    noise = torch.randn(attention.q_proj.weight.shape, generator=generator) * keys.shape[-1] ** -0.5
    per_key_head = len(attention.q_proj.weight) // len(attention.k_proj.weight)
    shared = keys.repeat_interleave(per_key_head, 0).flatten(0, 1)
    attention.q_proj.weight.copy_(0.5**0.5 * (shared + noise))


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
    pictures = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    nn.init.constant_(pictures.logit_scale, math.log(10))  # as SigLIP begins (Zhai et al., 2023, section 3.2)
    nn.init.constant_(pictures.logit_bias, -10.0)
    return pictures


class ClipPictures(nn.Module):
    """A CLIP picture tower that speaks of pictures as a SigLIP does, whose layers it begins with."""

    def __init__(self, pictures: SiglipModel) -> None:
        super().__init__()
        sizes = _tower("clip_vision_model", VISION_LAYERS) | {"hidden_act": "quick_gelu"}
        self.config = CLIPConfig(vision_config=sizes)
        self.vision_model = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, projection_dim=VISION_WIDTH))
        self.text_model = pictures.text_model.requires_grad_(False)
        self.logit_scale = nn.Parameter(pictures.logit_scale.detach().clone())
        self.logit_bias = nn.Parameter(pictures.logit_bias.detach().clone())
        layers = pictures.vision_model.encoder.layers.state_dict()
        self.vision_model.vision_model.encoder.layers.load_state_dict(layers)
        old, new = pictures.vision_model.embeddings, self.vision_model.vision_model.embeddings
        with torch.no_grad():
            new.patch_embedding.weight.copy_(old.patch_embedding.weight)
            new.position_embedding.weight[1:].copy_(old.position_embedding.weight)

    def get_image_features(self, pixel_values: torch.Tensor) -> Any:
        return BaseModelOutputWithPooling(pooler_output=self.vision_model(pixel_values=pixel_values).image_embeds)

    def get_text_features(self, input_ids: torch.Tensor) -> Any:
        return self.text_model(input_ids=input_ids)


def take_language(model: Any, source: Any) -> None:
    """Give ``model`` the language model of ``source``; ids beyond that one's keep their embeddings, and what is the
    beacons' begins as what it stands beside."""
    wanted = model.model.language_model.state_dict()
    found = source.model.language_model.state_dict()
    for name, weight in wanted.items():
        given = found.get(name.replace("beacon_", ""))
        if given is not None:
            rows = min(len(weight), len(given))
            weight[:rows].copy_(given[:rows])


def take_tower(model: Any, pictures: Any) -> None:
    """Give ``model`` the vision tower of a model of pictures and texts; the layers that it has, and no head."""
    tower = pictures.vision_model
    source = getattr(tower, "vision_model", tower).state_dict()
    tower = model.model.vision_tower
    wanted = tower.state_dict()
    tower.load_state_dict({name: source[name] for name in wanted})
