"""Video-XL-2: token synthesis merges four frames; groups are read in chunks and asked about on two levels (SPEC 3)."""

from __future__ import annotations

from videoxl.config import BiLevelDecode, ChunkedPrefill, DenseDecode, FullPrefill, PrefillStrategy, StateKVPrefill
from videoxl.model.families.family import (
    QWEN2_IMAGE_PAD,
    QWEN2_VISION_PAD,
    SIZE_KEYS,
    Family,
    JsonObject,
    PrefillSupport,
    ReleasedFormat,
    ReleasedRatios,
    TokenLayout,
    Vision,
    carried_state,
)

SIGLIP = "google/siglip-so400m-patch14-384"
"""The whole model that the vision tower was taken from."""
SIGLIP_VISION = Vision(
    tower="siglip_vision_model",
    tower_title="SigLIP",
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    unused_layers=1,
    token_grid=24,
    siglip=SIGLIP,
)
"""Video-XL-Pro sees the same way."""


def read_synthesis(released: JsonObject, vision: JsonObject, text: JsonObject) -> JsonObject:
    """The released loader deletes the tower's last layer and its pooling head (SPEC 3.1)."""
    vocabulary = released.get("vocab_size", QWEN2_IMAGE_PAD + 1)
    video_token_id = released.get("video_token_id", QWEN2_VISION_PAD)
    layers = vision["num_hidden_layers"] - SIGLIP_VISION.unused_layers
    return {
        "vision_config": {**vision, "num_hidden_layers": layers, "vision_use_head": False},
        "video_token_id": video_token_id,
        "image_token_id": QWEN2_IMAGE_PAD if vocabulary > QWEN2_IMAGE_PAD else video_token_id,
    }


def write_synthesis(config: JsonObject, released: JsonObject, vision: JsonObject) -> None:
    """Inverse of :func:`read_synthesis`."""
    released |= {key: config[key] for key in SIZE_KEYS}
    vision["num_hidden_layers"] += SIGLIP_VISION.unused_layers
    vision.pop("vision_use_head", None)


def full_prefill(_: ReleasedRatios) -> PrefillStrategy:
    return FullPrefill()


VIDEO_XL_2 = Family(
    name="video-xl-2",
    title="Video-XL-2",
    tokens=TokenLayout(frames_per_group=4, time_format="Time {:.1f}s:"),
    vision=SIGLIP_VISION,
    prefills=(
        PrefillSupport(FullPrefill),
        PrefillSupport(ChunkedPrefill),
        PrefillSupport(StateKVPrefill, refuse_extend=carried_state),
    ),
    default_prefill=full_prefill,
    low_memory=(
        (ChunkedPrefill(), DenseDecode()),
        (ChunkedPrefill(vision_batch=6), DenseDecode()),
        (ChunkedPrefill(offload=True, vision_batch=6), BiLevelDecode()),
        (ChunkedPrefill(offload=True, vision_batch=6), BiLevelDecode(pool=12)),
    ),
    token_synthesis=True,
    two_levels=True,
    released=ReleasedFormat(
        read=read_synthesis,
        write=write_synthesis,
        hub={
            "BAAI/Video-XL-2": {
                "mm_vision_tower": "siglip-so400m-patch14-384",
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
                "torch_dtype": "float16",
            },
        },
    ),
)
