"""Sizes and token counts of a model without its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from videoxl.config import EMBEDDED
from videoxl.errors import CheckpointError
from videoxl.inference.loading import embedded_folder, is_model_folder, load_tokenizer, parse_dtype, pick_dtype
from videoxl.inference.prompt import ChatFormat
from videoxl.model.configuration import VIDEO_XL_PRO, VideoXLConfig, native_config_dict

# SPEC 5.2; what a released config.json states about sizes
RELEASED: dict[str, dict[str, Any]] = {
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
    "MINT-SJTU/Video-XL-Pro-3B": {  # built on Qwen2.5-3B, whose sizes these are
        "family": VIDEO_XL_PRO,
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
    },
}
RELEASED["lxr2003/Video-XL-Pro-3B"] = RELEASED["MINT-SJTU/Video-XL-Pro-3B"]  # the name in the released README


@dataclass(frozen=True)
class Specification:
    """What planning needs to know of a model."""

    config: VideoXLConfig
    chat_format: ChatFormat
    dtype: torch.dtype
    notes: tuple[str, ...] = ()


def specification(model: str, dtype: Any = "auto", *, on_cpu: bool = False) -> Specification:
    """Of an embedded model, a model folder, or a released Hub id. Raises :class:`CheckpointError` for others."""
    if model in EMBEDDED or is_model_folder(model):
        folder = embedded_folder(model) if model in EMBEDDED else Path(model)
        config = AutoConfig.from_pretrained(folder)
        target = torch.device("cpu") if on_cpu or not torch.cuda.is_available() else torch.device("cuda")
        return Specification(config, ChatFormat.of(load_tokenizer(folder)), pick_dtype(dtype, folder, target))
    if model in RELEASED:
        config = VideoXLConfig.from_dict(native_config_dict(RELEASED[model], None))
        note = "sizes of the released model; tokens of questions and subtitles are estimated, four characters each"
        return Specification(config, ChatFormat(_qwen2_like, _qwen2_like), parse_dtype(dtype) or torch.float16, (note,))
    raise CheckpointError(
        f"{model}: not a model folder, and not a model whose sizes are known ({', '.join([*EMBEDDED, *RELEASED])})"
    )


def _qwen2_like(text: str) -> list[int]:
    """As many ids as Qwen2's tokenizer gives for timestamps and the default prompt; an estimate for other text.

    In a timestamp ``Time`` is one token and so is every other character (SPEC 3.4). In the default prompt every
    special token, word, full stop and line break is one.
    """
    if text.startswith("Time "):
        return [0] * (len(text) - len("Time") + 1)
    pieces = re.findall(r"<\|\w+\|>|\n|[A-Za-z]+|[^\sA-Za-z]", text)
    return [0] * sum(max(1, round(len(p) / 7)) if p.isalpha() else 1 for p in pieces)
