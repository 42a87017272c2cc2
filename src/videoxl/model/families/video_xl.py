"""Video-XL: a CLIP sees every frame, and beacons compress what it saw window by window (SPEC 2)."""

from __future__ import annotations

from videoxl.config import BeaconPrefill, DenseDecode, FullPrefill, PrefillStrategy
from videoxl.errors import CheckpointError
from videoxl.model.families.family import (
    Family,
    JsonObject,
    PrefillSupport,
    ReleasedFormat,
    ReleasedRatios,
    TokenLayout,
    Vision,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

BEACON_PARAM = ("q", "k", "v")
"""What beacons have projections of their own for, in every published script."""
BEACON_KEYS = (
    "beacon_param",
    "beacon_window",
    "beacon_ratio",
    "beacon_ratio_mix",
    "beacon_embed_init",
    "beacon_accum",
)
"""Released keys of the compression that have a meaning here (SPEC 2.9)."""
FIXED_BEACON_VALUES: JsonObject = {
    "beacon_attn": "full-coverage",
    "beacon_pos": "interleave",
    "beacon_sink_size": 0,
    "beacon_attend_prev": True,
    "beacon_parallel_window": 1,
}
"""Released keys for which every published script uses this one value; another value is refused (SPEC 2.9)."""

VIDEO_XL_7B: JsonObject = {
    "model_type": "llava_qwen",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "enable_beacon": True,
    "beacon_window": 1440,
    "beacon_stride": 1440,
    "beacon_attn": "full-coverage",
    "beacon_param": ["q", "k", "v"],
    "beacon_ratio": [8],
    "beacon_accum": True,
    "beacon_attend_prev": True,
    "beacon_sink_size": 0,
    "beacon_pos": "interleave",
    "beacon_ratio_mix": "step-random",
    "beacon_embed_init": "eos",
    "eos_token_id": 151645,
    "bos_token_id": 151643,
}
"""Sizes of the released model (SPEC 5.1), with the beacons that its training script names."""


def _read(released: JsonObject, vision: JsonObject, text: JsonObject) -> JsonObject:
    """The released loader ignores RoPE scaling (SPEC 2.9). The last id of the vocabulary stands for every visual token
    (SPEC 2.2)."""
    text.pop("rope_scaling", None)
    for key, value in FIXED_BEACON_VALUES.items():
        if released.get(key, value) != value:
            raise CheckpointError(f"config.json has {key}={released[key]!r}; only {value!r} is supported (SPEC 2.9)")
    window = released.get("beacon_window", 1024)
    if released.get("beacon_stride", window) != window:
        raise CheckpointError(f"beacon_stride={released['beacon_stride']} must equal beacon_window={window} (SPEC 2.9)")
    if released.get("mm_vision_select_feature", "patch") != "patch":
        raise CheckpointError(f"mm_vision_select_feature={released['mm_vision_select_feature']!r}; known is 'patch'")
    ratio = released.get("beacon_ratio", [2, 4, 8, 16, 32])
    placeholder = released.get("vocab_size", 152064) - 1
    return {
        "vision_config": vision,
        "vision_select_layer": released.get("mm_vision_select_layer", VIDEO_XL.vision.select_layer),
        "video_token_id": placeholder,
        "image_token_id": placeholder,
        **{key: released[key] for key in BEACON_KEYS if key in released},
        "beacon_param": released.get("beacon_param") or BEACON_PARAM,
        "beacon_window": window,
        "beacon_ratio": [ratio] if isinstance(ratio, int) else ratio,
    }


def _write(config: JsonObject, released: JsonObject, vision: JsonObject) -> None:
    released |= {key: config[key] for key in BEACON_KEYS} | FIXED_BEACON_VALUES
    released |= {"beacon_stride": config["beacon_window"], "enable_beacon": True}
    released |= {"mm_vision_select_layer": config["vision_select_layer"], "mm_vision_select_feature": "patch"}


def _default_prefill(config: ReleasedRatios) -> PrefillStrategy:
    """As ``config.json`` says; a random mix is seeded anew for every video. Before beacons are trained all is kept."""
    if not config.beacon_param:
        return FullPrefill()
    return BeaconPrefill.from_released(list(config.beacon_ratio), config.beacon_ratio_mix)


def _refuse_extend(strategy: PrefillStrategy) -> str | None:
    if isinstance(strategy, BeaconPrefill) and strategy.mix == "adaptive":
        return (
            "mix='adaptive' chose its ratio for the length the video had: encode the longer one, or use a fixed ratio"
        )
    return None


def _refuse_trim(strategy: PrefillStrategy) -> str | None:
    return f"a memory read with {strategy} has no groups left to forget: encode a part instead"


VIDEO_XL = Family(
    name="video-xl",
    title="Video-XL",
    tokens=TokenLayout(frames_per_group=1, time_format=""),
    vision=Vision(
        tower="clip_vision_model",
        tower_title="CLIP",
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
        select_layer=-2,
        frame_fit="crop",
        stills="crops",
    ),
    prefills=(
        PrefillSupport(BeaconPrefill, refuse_extend=_refuse_extend, refuse_trim=_refuse_trim),
        PrefillSupport(FullPrefill),
    ),
    default_prefill=_default_prefill,
    low_memory=((BeaconPrefill(ratio=8), DenseDecode()), (BeaconPrefill(ratio=16), DenseDecode())),
    beacons=True,
    released=ReleasedFormat(read=_read, write=_write, hub={"sy1998/Video_XL": VIDEO_XL_7B}),
)
