"""A family that nobody released, in one file: what a new family needs, and a random model of it."""

from __future__ import annotations

from tests.model.builders import randomised
from tests.model.random_tiny import tiny_tokenizer
from videoxl.config import ChunkedPrefill, FullPrefill, PrefillStrategy
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families.family import Family, PrefillSupport, TokenLayout, Vision
from videoxl.model.videoxl import VideoXLForConditionalGeneration


def _refuse(strategy: PrefillStrategy) -> str | None:
    return f"toys forget nothing they read with {strategy}"


TOY = Family(
    name="toy",
    title="Toy",
    tokens=TokenLayout(frames_per_group=2, time_format="At {:.0f} s:"),
    vision=Vision(
        tower="siglip_vision_model",
        tower_title="SigLIP",
        image_mean=(0.4, 0.4, 0.4),
        image_std=(0.2, 0.2, 0.2),
        frame_fit="crop",
    ),
    prefills=(PrefillSupport(ChunkedPrefill, refuse_trim=_refuse), PrefillSupport(FullPrefill)),
    default_prefill=lambda config: ChunkedPrefill(chunk_size=2, step_size=1),
    token_synthesis=True,
)


def toy_model() -> VideoXLForConditionalGeneration:
    """28-pixel pictures, 9 tokens per group of two frames. ``TOY`` must be in the table."""
    tokenizer = tiny_tokenizer()
    config = VideoXLConfig.for_family(
        TOY,
        tower_patches=7,
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 4,
        },
        synthesis_norm_groups=8,
        video_token_id=tokenizer.convert_tokens_to_ids("<|vision_pad|>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )
    return randomised(VideoXLForConditionalGeneration(config)).eval()
