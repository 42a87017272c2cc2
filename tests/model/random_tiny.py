"""Models with the parts of the released ones at a size that runs in no time, with random weights from a seed.

``tiny_model()`` is a Video-XL-2, ``tiny_model(name="tiny-v1")`` a Video-XL. They exercise every part, answer nothing,
and never change, unlike the embedded models of the same names.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from videoxl.config import TINY, TINY_V1
from videoxl.inference.engine import VideoXL
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families.video_xl import CLIP_MEAN, CLIP_STD, VIDEO_XL
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


def _text_config(tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "vocab_size": vocabulary,
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
    }


def tiny_config(tokenizer: PreTrainedTokenizerFast, name: str = TINY) -> VideoXLConfig:
    """Sizes of one of the two."""
    return _beacon_config(tokenizer) if name == TINY_V1 else _synthesis_config(tokenizer)


def _beacon_config(tokenizer: PreTrainedTokenizerFast) -> VideoXLConfig:
    """56-pixel frames of 16 tokens, windows of 10 frames, ratio 8: two beacons a frame."""
    vocabulary = len(tokenizer) + 1  # the last id stands for visual tokens
    return VideoXLConfig(
        family=VIDEO_XL.name,
        text_config=_text_config(tokenizer, vocabulary),
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 7,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        frames_per_group=1,
        token_grid=8,
        vision_select_layer=-2,
        time_format="",
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
        video_token_id=vocabulary - 1,
        image_token_id=vocabulary - 1,
        beacon_param=("q", "k", "v"),
        beacon_window=160,
        beacon_ratio=(8,),
        image_aspect_ratio="anyres",
        image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
    )


def _synthesis_config(tokenizer: PreTrainedTokenizerFast) -> VideoXLConfig:
    """96-pixel pictures, 16 tokens per group of 4 frames, a 2-layer language model."""
    return VideoXLConfig(
        text_config=_text_config(tokenizer, len(tokenizer)),
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


def tiny_model(
    seed: int = TINY_SEED, dtype: torch.dtype = torch.float32, name: str = TINY
) -> VideoXLForConditionalGeneration:
    """The same weights every time, whatever the global random state, which is left as it was."""
    config = tiny_config(tiny_tokenizer(), name)
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


def tiny_engine(name: str = TINY, dtype: torch.dtype = torch.float32) -> VideoXL:
    """One of the two, ready to read videos."""
    return VideoXL(tiny_model(dtype=dtype, name=name), tiny_tokenizer(), name=name)
