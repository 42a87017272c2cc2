"""Small models and checkpoint folders for the tests, drawn from seeds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.model.random_tiny import tiny_tokenizer
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families.video_xl import CLIP_MEAN, CLIP_STD
from videoxl.model.token_synthesis import TokenSynthesis
from videoxl.model.videoxl import VideoXLForConditionalGeneration


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Non-zero weights everywhere: fresh temporal attention starts at zero, which hides every error in it."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            offset = 1.0 if parameter.ndim == 1 and not name.endswith("bias") else 0.0
            scale = 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=source))
    return module


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def synthesis(channels: int, frames_per_group: int, seed: int = 0) -> TokenSynthesis:
    """Of 32 channels with fewer norm groups: one of a single channel and two times divides by noise."""
    return randomised(
        TokenSynthesis(channels, frames_per_group=frames_per_group, norm_groups=min(32, channels // 4)), seed
    )


def small_config(**changes) -> VideoXLConfig:
    """Smaller than ``"tiny"`` and of other proportions; ``text`` and ``vision`` hold changes of the sub-configs."""
    vocabulary = len(tiny_tokenizer())
    text = {
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "use_sliding_window": False,
        "eos_token_id": tiny_tokenizer().eos_token_id,
        "bos_token_id": None,
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 4,
        "hidden_act": "gelu_pytorch_tanh",
        "vision_use_head": False,
    }
    special = tiny_tokenizer().convert_tokens_to_ids
    return VideoXLConfig(
        text_config=text | changes.pop("text", {}),
        vision_config=vision | changes.pop("vision", {}),
        **{
            "token_grid": 6,
            "synthesis_norm_groups": 8,
            "video_token_id": special("<|vision_pad|>"),
            "image_token_id": special("<|image_pad|>"),
            **changes,
        },
    )


def small_model(seed: int = 3, **changes) -> VideoXLForConditionalGeneration:
    model = VideoXLForConditionalGeneration(small_config(**changes))
    return randomised(model, seed).eval()


def pro_model(seed: int = 3, **changes) -> VideoXLForConditionalGeneration:
    """Of the family ``video-xl-pro``: 36 visual tokens per group, timestamps padded to six characters."""
    return small_model(seed, family="video-xl-pro", time_format="Time {:06.1f}s:", token_grid=12, **changes)


BEACON_FRAME, BEACON_WINDOW = 4, 16
"""Visual tokens of a frame, and of a window, of :func:`small_beacon_model`."""


def small_beacon_config(**changes) -> VideoXLConfig:
    """Video-XL with 4 visual tokens a frame and windows of 4 frames; ``text`` and ``vision`` change the sub-configs."""
    text = changes.pop("text", {})
    vocabulary = text.get("vocab_size", len(tiny_tokenizer()) + 3)
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "projection_dim": 16,
        "image_size": 28,
        "patch_size": 7,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    return small_config(
        **{
            "family": "video-xl",
            "frames_per_group": 1,
            "token_grid": 4,
            "vision_select_layer": -2,
            "time_format": "",
            "video_token_id": vocabulary - 1,
            "image_token_id": vocabulary - 1,
            "beacon_param": ["q", "k", "v"],
            "beacon_window": BEACON_WINDOW,
            "beacon_ratio": [4],
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            **changes,
            "text": {"vocab_size": vocabulary, "num_key_value_heads": 2, **text},
            "vision": vision | changes.get("vision", {}),
        }
    )


def small_beacon_model(seed: int = 11, **changes) -> VideoXLForConditionalGeneration:
    """Of Video-XL. Its beacon embedding has the size of other embeddings, so that nothing hides behind it."""
    attention = changes.pop("attention", "sdpa")
    model = VideoXLForConditionalGeneration._from_config(small_beacon_config(**changes), attn_implementation=attention)
    return randomised(model, seed).eval()


def released_name(name: str) -> str:
    """Name in a released file of one of our weights, stated here a second time."""
    for ours, released in (
        ("vision_tower", "vision_tower.vision_tower.vision_model"),
        ("token_synthesis", "sae"),
        ("multi_modal_projector", "mm_projector"),
        (r"token_scores\.attention", "WindowTimeToTokenAttention"),
        (r"token_scores\.text_mlp", "text_mlp"),
    ):
        name = re.sub(rf"^model\.{ours}\.", f"model.{released}.", name)
    return name.replace("model.language_model.", "model.")


def released_config(config: VideoXLConfig) -> tuple[dict, dict]:
    """The flat ``config.json`` and the vision tower's, written by hand as the released ones are."""
    text, vision = config.text_config, config.vision_config
    if config.family == "video-xl":
        return _released_beacon_config(config)
    flat = {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "mm_vision_tower": "vision_tower",
        "mm_spatial_pool_mode": config.pool_mode,
        "mm_spatial_pool_stride": config.pool_stride,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "unires",
        "rope_theta": 1e6,
        "torch_dtype": "float32",
        "eos_token_id": text.eos_token_id,
        "frames_per_group": config.frames_per_group,
        "token_grid": config.token_grid,
        "synthesis_norm_groups": config.synthesis_norm_groups,
        "video_token_id": config.video_token_id,
        "image_token_id": config.image_token_id,
    }
    flat |= _released_text(text)
    tower = {
        "model_type": "siglip_vision_model",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_hidden_layers + 1,  # the last one is deleted on loading
        "num_attention_heads": vision.num_attention_heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": vision.layer_norm_eps,
    }
    return flat, tower


def _released_text(text) -> dict:
    keys = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "use_sliding_window",
    )
    return {key: getattr(text, key) for key in keys}


def _released_beacon_config(config: VideoXLConfig) -> tuple[dict, dict]:
    vision = config.vision_config
    flat = {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "mm_vision_tower": "vision_tower",
        "mm_vision_select_layer": config.vision_select_layer,
        "mm_vision_select_feature": "patch",
        "mm_spatial_pool_mode": config.pool_mode,
        "mm_spatial_pool_stride": config.pool_stride,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": "spatial_pool",
        "mm_patch_merge_type": "unires",
        "rope_theta": 1e6,
        "rope_scaling": {"type": "linear", "factor": 4.0},  # which the released loader ignores
        "torch_dtype": "float32",
        "eos_token_id": config.text_config.eos_token_id,
        "enable_beacon": True,
        "beacon_window": config.beacon_window,
        "beacon_stride": config.beacon_window,
        "beacon_attn": "full-coverage",
        "beacon_pos": "interleave",
        "beacon_param": list(config.beacon_param),
        "beacon_ratio": list(config.beacon_ratio),
        "beacon_ratio_mix": config.beacon_ratio_mix,
        "beacon_embed_init": config.beacon_embed_init,
        "beacon_attend_prev": True,
        "beacon_sink_size": 0,
        "beacon_parallel_window": 1,
        **_released_text(config.text_config),
    }
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "projection_dim")
    keys += ("image_size", "patch_size", "hidden_act", "layer_norm_eps")
    return flat, {"model_type": "clip_vision_model"} | {key: getattr(vision, key) for key in keys}


def released_tensors(model: VideoXLForConditionalGeneration) -> dict[str, torch.Tensor]:
    tied = model.config.tie_word_embeddings
    weights = {n: p.detach() for n, p in model.named_parameters() if not (tied and n == "lm_head.weight")}
    return {released_name(name): p.clone().contiguous() for name, p in weights.items()}


def write_released(
    folder: Path,
    model: VideoXLForConditionalGeneration,
    *,
    shards: int = 1,
    extra: dict | None = None,
    without: str | None = None,
    **config,
) -> Path:
    """A checkpoint folder as the released ones are laid out, with a tokenizer.

    ``without``: weights whose released name this pattern is found in are left out. ``config``: keys of config.json.
    """
    flat, tower = released_config(model.config)
    flat |= config
    (folder / "vision_tower").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(flat))
    (folder / "vision_tower" / "config.json").write_text(json.dumps(tower))
    tensors = released_tensors(model) | (extra or {})
    write_shards(folder, {n: t for n, t in tensors.items() if not without or not re.search(without, n)}, shards)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    place = {name: files[i % shards] for i, name in enumerate(names)}
    for file in files:
        save_file({n: tensors[n] for n in names if place[n] == file}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value of ``theirs``."""
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def gradient_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Worst over several gradients, each measured by its own size; some are zero but for rounding."""
    floor = 1e-3 * max(float(g.abs().max()) for g in theirs)
    return max(float((a - b).abs().max()) / (float(b.abs().max()) + floor) for a, b in zip(ours, theirs))
