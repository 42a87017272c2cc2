"""Checks the values of a ``config.json`` before anything is computed or built from them.

Every setting that a size, a loop or a text is made of has a type and a range here. What a size means for the weights is
compared later, in :mod:`videoxl.model.folder`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from videoxl.errors import CheckpointError
from videoxl.model.foreign import one_line

Check = Callable[[Any], bool]
Rule = tuple[Check, str]
"""Whether a value is allowed, and what is, in words."""

TEXT_KINDS = ("qwen2", "qwen3", "qwen3_vl_text")
TOWER_KINDS = ("siglip_vision_model", "clip_vision_model", "qwen3_vl_vision")
LARGEST_ID = 2**31 - 1


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(low: int, high: int) -> Rule:
    return (lambda value: is_whole(value) and low <= value <= high), f"a whole number from {low} to {high:,}"


def number(low: float, high: float) -> Rule:
    return (
        lambda value: (is_whole(value) or isinstance(value, float)) and low <= value <= high,
        f"a number from {low:g} to {high:g}",
    )


def one_of(*allowed: str) -> Rule:
    return (lambda value: isinstance(value, str) and value in allowed), f"one of {', '.join(allowed)}"


def optional(rule: Rule) -> Rule:
    return (lambda value: value is None or rule[0](value)), f"null or {rule[1]}"


def several(rule: Rule, at_least: int, at_most: int) -> Rule:
    return (
        lambda value: (
            isinstance(value, (list, tuple)) and at_least <= len(value) <= at_most and all(map(rule[0], value))
        ),
        f"a list of {at_least} to {at_most} values, each {rule[1]}",
    )


def either(first: Rule, second: Rule) -> Rule:
    return (lambda value: first[0](value) or second[0](value)), f"{first[1]}, or {second[1]}"


TRUTH: Rule = (lambda value: isinstance(value, bool)), "true or false"
TEXT: Rule = (lambda value: isinstance(value, str) and len(value) <= 1000), "a text"
MAPPING: Rule = (lambda value: isinstance(value, dict)), "a mapping"
IDS = optional(either(whole(-1, LARGEST_ID), several(whole(0, LARGEST_ID), 0, 100)))
ONE_ID = optional(whole(-1, LARGEST_ID))
TIME_FORMAT: Rule = (
    lambda value: (
        isinstance(value, str) and re.fullmatch(r"|[^{}]{0,30}\{:\d?\d?\.\df\}[^{}]{0,30}", value) is not None
    ),
    "empty, or a text with one number in it such as 'Time {:.1f}s:'",
)
GRIDS = re.compile(
    r"\(\d{1,3}x\d{1,3}\)[\d(), .x]{0,2000}"  # (1x1),...,(6x6)
    r"|[\[(]([\[(]\d{1,5}, ?\d{1,5}[\])],? ?){1,1000}[\])]"  # [[336, 672], [672, 336]]
)
PINPOINTS = either(
    several(several(whole(1, 100_000), 2, 2), 1, 1000),
    (
        (
            lambda value: (
                isinstance(value, str)
                and len(value) < 20_000
                and GRIDS.fullmatch(value) is not None
                and all(len(digits) <= 5 for digits in re.findall(r"\d+", value))
            )
        ),
        "pairs of pixels, or of crops such as '(1x1),...,(6x6)'",
    ),
)
DTYPE: Rule = (
    lambda value: (
        value is None or isinstance(value, torch.dtype) or value in ("float32", "float16", "bfloat16", "float64")
    ),
    "float32, float16, bfloat16 or float64",
)

OF_A_TRANSFORMER: Mapping[str, Rule] = {
    "hidden_size": whole(1, 1 << 16),
    "intermediate_size": whole(1, 1 << 19),
    "num_hidden_layers": whole(1, 1000),
    "num_attention_heads": whole(1, 1 << 12),
    "hidden_act": TEXT,
    "dtype": DTYPE,
    "torch_dtype": DTYPE,
    "attention_dropout": number(0, 1),
    "initializer_range": number(0, 10),
}
OF_TEXT: Mapping[str, Rule] = {
    **OF_A_TRANSFORMER,
    "model_type": one_of(*TEXT_KINDS),
    "vocab_size": whole(1, 10_000_000),
    "num_key_value_heads": optional(whole(1, 1 << 12)),
    "head_dim": optional(whole(2, 1 << 12)),
    "max_position_embeddings": whole(1, 1 << 40),
    "rms_norm_eps": number(0, 1),
    "rope_theta": optional(number(1, 1e15)),
    "rope_scaling": optional(MAPPING),
    "rope_parameters": optional(MAPPING),
    "tie_word_embeddings": TRUTH,
    "use_sliding_window": optional(TRUTH),
    "sliding_window": optional(whole(0, 1 << 40)),
    "max_window_layers": optional(whole(0, 1 << 40)),
    "layer_types": optional(several(TEXT, 0, 1000)),
    "bos_token_id": IDS,
    "eos_token_id": IDS,
    "pad_token_id": ONE_ID,
}
OF_VISION: Mapping[str, Rule] = {
    **OF_A_TRANSFORMER,
    "num_hidden_layers": whole(0, 1000),
    "model_type": one_of(*TOWER_KINDS),
    "image_size": whole(1, 1 << 13),
    "patch_size": whole(1, 1 << 13),
    "num_channels": whole(3, 3),
    "projection_dim": whole(1, 1 << 16),
    "layer_norm_eps": number(0, 1),
    "vision_use_head": TRUTH,
    "depth": whole(1, 1000),
    "num_heads": whole(1, 1 << 12),
    "in_channels": whole(3, 3),
    "spatial_merge_size": whole(1, 64),
    "temporal_patch_size": whole(1, 64),
    "out_hidden_size": whole(1, 1 << 16),
    "num_position_embeddings": whole(1, 1 << 24),
    "deepstack_visual_indexes": several(whole(0, 1000), 0, 100),
}
OF_VIDEO_XL: Mapping[str, Rule] = {
    "family": TEXT,
    "frames_per_group": whole(1, 1024),
    "token_grid": whole(1, 1024),
    "vision_select_layer": whole(-1000, -1),
    "time_format": TIME_FORMAT,
    "pool_stride": whole(1, 1024),
    "synthesis_norm_groups": whole(1, 1 << 16),
    "synthesis_max_distance": whole(1, 1 << 20),
    "patch_merge_type": TEXT,
    "video_token_id": whole(0, LARGEST_ID),
    "image_token_id": whole(0, LARGEST_ID),
    "image_mean": several(number(-1e3, 1e3), 3, 3),
    "image_std": several(number(1e-6, 1e3), 3, 3),
    "beacon_param": several(TEXT, 0, 3),
    "beacon_window": whole(1, 1 << 24),
    "beacon_ratio": several(whole(2, 1 << 20), 1, 100),
    "beacon_ratio_mix": TEXT,
    "beacon_embed_init": TEXT,
    "beacon_accum": TRUTH,
    "image_grid_pinpoints": optional(PINPOINTS),
    "image_aspect_ratio": optional(TEXT),
    "video_pixels": optional(several(whole(1, 1 << 40), 2, 2)),
    "image_pixels": optional(several(whole(1, 1 << 40), 2, 2)),
    "frame_token_cap": optional(whole(1, 1 << 20)),
}
OF_EITHER: Mapping[str, Rule] = {
    "dtype": DTYPE,
    "torch_dtype": DTYPE,
    "architectures": optional(several(TEXT, 0, 20)),
    "quantization_config": optional(MAPPING),
}
"""Of the whole file, in either layout."""
OF_RELEASED: Mapping[str, Rule] = {
    "family": TEXT,
    "vocab_size": OF_TEXT["vocab_size"],
    "video_token_id": OF_VIDEO_XL["video_token_id"],
    "beacon_ratio": optional(either(whole(2, 1 << 20), several(whole(2, 1 << 20), 1, 100))),
    "beacon_param": optional(OF_VIDEO_XL["beacon_param"]),
    "beacon_window": OF_VIDEO_XL["beacon_window"],
}
"""Of a released flat file, what is computed with while it is translated."""
OF_PROCESSOR: Mapping[str, Rule] = {
    "frames_per_group": whole(1, 1024),
    "tokens_per_group": whole(1, 1 << 20),
    "time_format": TIME_FORMAT,
    "video_token": TEXT,
    "video_token_id": optional(whole(0, LARGEST_ID)),
    "frame_fit": one_of("crop", "stretch"),
    "height": whole(1, 1 << 13),
    "width": whole(1, 1 << 13),
    "shortest_edge": whole(1, 1 << 13),
    "longest_edge": whole(1, 1 << 13),
    "image_mean": optional(OF_VIDEO_XL["image_mean"]),
    "image_std": optional(OF_VIDEO_XL["image_std"]),
    "rescale_factor": number(0, 1e6),
}
"""Of the files of a processor, at any level."""
OF_ANY_SIZE: Mapping[str, Rule] = {
    "shortest_edge": whole(1, 1 << 40),
    "longest_edge": whole(1, 1 << 40),
    "min_pixels": optional(whole(1, 1 << 40)),
    "max_pixels": optional(whole(1, 1 << 40)),
    "patch_size": whole(1, 1 << 13),
    "temporal_patch_size": whole(1, 64),
    "merge_size": whole(1, 64),
    "max_video_tokens": optional(whole(1, 1 << 20)),
    "cap_pixels_per_frame": optional(TRUTH),
    "image_mean": optional(OF_VIDEO_XL["image_mean"]),
    "image_std": optional(OF_VIDEO_XL["image_std"]),
}
"""Of a processor whose pictures keep their shape: its edges count pixels of a whole video."""


def check_values(values: Mapping[str, Any], rules: Mapping[str, Rule], where: str = "") -> None:
    """Raise :class:`CheckpointError` for the first value that its rule does not allow; what is not given passes.

    ``where``: what stands in front of the names, such as ``text_config.``.
    """
    for name, (allows, words) in rules.items():
        if name in values and not allows(values[name]):
            raise CheckpointError(f"{where}{name} must be {words}, got {one_line(repr(values[name]), 60)}")


def check_heads(values: Mapping[str, Any], where: str) -> None:
    """Raise :class:`CheckpointError` where heads do not divide what they must."""
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    groups = values.get("num_key_value_heads") or heads
    if heads and groups and heads % groups:
        raise CheckpointError(f"{where}num_attention_heads={heads} is not divisible by num_key_value_heads={groups}")
    if width and heads and not values.get("head_dim") and width % heads:
        raise CheckpointError(f"{where}hidden_size={width} is not divisible by num_attention_heads={heads}")
    if width and heads and where.startswith("text") and (values.get("head_dim") or width // heads) % 2:
        raise CheckpointError(f"{where}heads of odd width cannot be rotated: hidden_size={width}, {heads} heads")


def check_rope(given: object, where: str) -> None:
    """Raise :class:`CheckpointError` for numbers of a position embedding that no angle can be computed from."""
    if not isinstance(given, dict):
        return
    positive = optional(number(1e-6, 1e15))
    names = ("rope_theta", "factor", "attention_factor", "beta_fast", "beta_slow", "original_max_position_embeddings")
    check_values(given, {**dict.fromkeys(names, positive), "rope_type": optional(TEXT), "type": optional(TEXT)}, where)
    check_values(given, {"mrope_section": optional(several(whole(0, 4096), 3, 3))}, where)


def stated(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a file may state about a configuration of class ``kind``: its fields and the sizes known here, nothing else.

    Left out is everything by which a file could say what else is loaded or run (code of the folder, kernels of the Hub,
    other weights), and everything that would become an attribute that no code reads.
    """
    names = {field.name for field in dataclasses.fields(kind)} | FURTHER
    found = {name: value for name, value in given.items() if name in names}
    for name, inner in getattr(kind, "sub_configs", {}).items():
        if isinstance(found.get(name), dict) and dataclasses.is_dataclass(inner):
            found[name] = stated(inner, found[name])
    return found


FURTHER = frozenset({*OF_TEXT, *OF_VISION, "attention_bias", "model_type", "quantization_config"})
"""Settings of older files, which transformers' configurations take although they are no fields of theirs."""
