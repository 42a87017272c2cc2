"""A Qwen2, a CLIP and a SigLIP as their authors publish them, at sizes that run in no time."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.model.random_tiny import tiny_tokenizer

SIDE = 28
SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
SEEN = {**SIZES, "image_size": SIDE, "patch_size": 7}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE]]


def write_parts(root: Path, vocabulary: int | None = None) -> dict[str, str]:
    """Their folders by name. ``vocabulary``: rows of the Qwen2's embeddings; default: the tokenizer's and one more."""
    words = tiny_tokenizer()
    torch.manual_seed(5)
    language = {**SIZES, "vocab_size": vocabulary or len(words) + 1, "num_key_value_heads": 1}
    made = {
        "qwen": Qwen2ForCausalLM(Qwen2Config(**language, eos_token_id=words.eos_token_id)),
        "clip": CLIPVisionModel(CLIPVisionConfig(**SEEN, projection_dim=16)),
        "siglip": SiglipVisionModel(SiglipVisionConfig(**SEEN)),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
    words.save_pretrained(root / "qwen")
    return {name: str(root / name) for name in made}
