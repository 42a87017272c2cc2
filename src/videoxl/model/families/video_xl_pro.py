"""Video-XL-Pro: Video-XL-2's vision side, and scores that decide which visual tokens are read at all (SPEC 4)."""

from __future__ import annotations

from videoxl.config import FullPrefill, PrefillStrategy, SelectivePrefill
from videoxl.model.families.family import (
    Family,
    JsonObject,
    PrefillSupport,
    ReleasedFormat,
    ReleasedRatios,
    TokenLayout,
)
from videoxl.model.families.video_xl_2 import SIGLIP_VISION, read_synthesis, write_synthesis

PRO_3B: JsonObject = {  # built on Qwen2.5-3B, whose sizes these are
    "family": "video-xl-pro",
    "mm_vision_tower": "siglip-so400m-patch14-384",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}


def _default_prefill(_: ReleasedRatios) -> PrefillStrategy:
    return SelectivePrefill()


def _refuse_extend(_: PrefillStrategy) -> str | None:
    return "what Video-XL-Pro keeps depends on the whole video: it cannot be extended, encode it anew"


def _refuse_trim(strategy: PrefillStrategy) -> str | None:
    return f"a memory read with {strategy} has no groups left to forget: encode a part instead"


VIDEO_XL_PRO = Family(
    name="video-xl-pro",
    title="Video-XL-Pro",
    tokens=TokenLayout(frames_per_group=4, time_format="Time {:06.1f}s:"),
    vision=SIGLIP_VISION,
    prefills=(
        PrefillSupport(SelectivePrefill, refuse_extend=_refuse_extend, refuse_trim=_refuse_trim),
        PrefillSupport(FullPrefill),
    ),
    default_prefill=_default_prefill,
    token_synthesis=True,
    token_scores=True,
    released=ReleasedFormat(
        read=read_synthesis,
        write=write_synthesis,
        own_weights=("model.WindowTimeToTokenAttention.", "model.token_scores."),
        shared_weights=r"text_mlp\.",
        hub={
            "MINT-SJTU/Video-XL-Pro-3B": PRO_3B,
            "lxr2003/Video-XL-Pro-3B": PRO_3B,  # the name in the released README
        },
    ),
)
