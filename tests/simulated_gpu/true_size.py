"""The released models at their true size, without weights, as engines on a simulated device."""

from __future__ import annotations

import re
from typing import Any

import torch
from accelerate import dispatch_model
from torch import nn

from tests.simulated_gpu.cuda import move
from tests.simulated_gpu.device import SimulatedDevices
from videoxl.inference.engine import VideoXL
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.own_config import has_own_format, own_config_dict
from videoxl.model.released_config import HUB_CONFIGS, native_config_dict
from videoxl.model.videoxl import VideoXLForConditionalGeneration

RELEASED: dict[str, dict[str, Any]] = {
    "video-xl": HUB_CONFIGS["sy1998/Video_XL"],
    "video-xl-pro": HUB_CONFIGS["MINT-SJTU/Video-XL-Pro-3B"],
    "video-xl-2": HUB_CONFIGS["BAAI/Video-XL-2"],
    "qwen3-vl": HUB_CONFIGS["Qwen/Qwen3-VL-8B-Instruct"],
}


class StandInTokenizer:
    """As many ids as Qwen2's tokenizer gives for what is asked here; ids say nothing."""

    pad_token_id = 151643

    def encode(self, text: str, **_: Any) -> list[int]:
        if text.startswith("Time "):
            return [1] * (len(text) - len("Time") + 1)
        if re.fullmatch(r"<[\d.]+ seconds>", text):
            return [1] * (len(text) - len(" seconds") + 1)
        return [1] * len(re.findall(r"<\|\w+\|>|\n|[A-Za-z]+|[^\sA-Za-z]", text))

    def decode(self, ids: Any, **_: Any) -> str:
        return " word" * len(ids)

    def convert_tokens_to_ids(self, token: str) -> int:
        return 151645


def released_config(family: str) -> VideoXLConfig:
    said = dict(RELEASED[family])
    return VideoXLConfig.from_dict(
        own_config_dict(said, None) if has_own_format(said) else native_config_dict(said, None)
    )


def fewer_vision_layers(config: Any, layers: int) -> None:
    """Where layers add to the language model (deepstack), as many of those that are left do."""
    if not hasattr(config, "depth"):
        config.num_hidden_layers = layers
        return
    config.depth = max(layers, len(config.deepstack_visual_indexes) + 1)  # the last one adds nothing, as released
    config.deepstack_visual_indexes = list(range(len(config.deepstack_visual_indexes)))


def build(
    family: str, *, layers: int | None = None, vision_layers: int | None = None
) -> VideoXLForConditionalGeneration:
    """A released model on ``meta``, in bf16. ``layers``, ``vision_layers``: fewer of them, for shorter runs."""
    config = released_config(family)
    if layers is not None:
        config.text_config.num_hidden_layers = layers
    if vision_layers is not None:
        fewer_vision_layers(config.vision_config, vision_layers)
    with torch.device("meta"):
        model = VideoXLForConditionalGeneration(config).to(torch.bfloat16).eval()
    return model


def split_over_two(model: nn.Module) -> nn.Module:
    """Leave the vision side and the first half of the layers on card 0; the rest and the head go to card 1."""
    base, language_model = model.model, model.model.language_model
    device_map = {f"model.{name}": 0 for name, _ in base.named_children() if name != "language_model"}
    own = [name for name, _ in language_model.named_children() if name not in ("layers", "norm")]
    device_map |= {f"model.language_model.{name}": 0 for name in own}
    half = len(language_model.layers) // 2
    device_map |= {f"model.language_model.layers.{n}": int(n >= half) for n in range(len(language_model.layers))}
    split: nn.Module = dispatch_model(model, {**device_map, "model.language_model.norm": 1, "lm_head": 1})
    return split


def true_size_engine(
    family: str,
    devices: SimulatedDevices,
    *,
    layers: int | None = None,
    vision_layers: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> VideoXL:
    """An engine of a released model's size on the simulated devices: on one, or with its layers on both of two."""
    model = move(build(family, layers=layers, vision_layers=vision_layers), devices, dtype)
    if devices.count == 2:
        split_over_two(model)
    model.model.language_model.fuse_projections()
    return VideoXL(model, StandInTokenizer(), name=family)  # type: ignore[arg-type]
