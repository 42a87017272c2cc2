"""The embedded model ``"tiny"``: the Video-XL-2 architecture at a size that runs anywhere in seconds.

Its weights are random, drawn from a seed: it exercises every part of the system and cannot answer anything.
"""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration

TINY_SEED = 20250601
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>", "<|image_pad|>")
# The split of Qwen2's tokenizer: digits one by one, words with their leading space, line breaks apart.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, the word ``Time``, and Qwen2's special tokens; splits text as Qwen2 does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("T", "i"), ("Ti", "m"), ("Tim", "e")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *("".join(m) for m in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|vision_pad|>", "<|image_pad|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> VideoXLConfig:
    """Sizes of ``"tiny"``: 96-pixel pictures, 16 tokens per group of 4 frames, a 2-layer language model."""
    return VideoXLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 131072,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 96,
            "patch_size": 10,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "vision_use_head": False,
        },
        token_grid=8,
        video_token_id=tokenizer.convert_tokens_to_ids("<|vision_pad|>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )


def tiny_model(seed: int = TINY_SEED, dtype: torch.dtype = torch.float32) -> VideoXLForConditionalGeneration:
    """The same weights every time, whatever the global random state, which is left as it was."""
    config = tiny_config(tiny_tokenizer())
    model = VideoXLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            offset = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))
    model.generation_config.eos_token_id = config.text_config.eos_token_id  # type: ignore[union-attr]
    model.generation_config.pad_token_id = config.text_config.pad_token_id  # type: ignore[union-attr]
    return model.to(dtype).eval()
