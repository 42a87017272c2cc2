"""Sizes and token counts of a model without its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from videoxl.config import EMBEDDED
from videoxl.errors import CheckpointError
from videoxl.inference.loading import Dtype, embedded_folder, load_tokenizer, parse_dtype, pick_dtype, split_revision
from videoxl.inference.prompt import ChatFormat
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.folder import ModelFolder
from videoxl.model.own_config import has_own_format, own_config_dict
from videoxl.model.released_config import HUB_CONFIGS, native_config_dict


@dataclass(frozen=True)
class ModelSpec:
    """What planning needs to know of a model."""

    config: VideoXLConfig
    chat_format: ChatFormat
    dtype: torch.dtype
    notes: tuple[str, ...] = ()


def model_spec(model: str, dtype: Dtype = "auto", *, on_cpu: bool = False) -> ModelSpec:
    """Look up an embedded model, a model folder, or a released Hub id. Raises :class:`CheckpointError` for others."""
    if model in EMBEDDED or Path(model).is_dir():
        folder = embedded_folder(model) if model in EMBEDDED else Path(model)
        config = ModelFolder.open(folder).config
        target = torch.device("cpu") if on_cpu or not torch.cuda.is_available() else torch.device("cuda")
        return ModelSpec(
            config, ChatFormat.of(load_tokenizer(folder), config.traits), pick_dtype(dtype, folder, target)
        )
    model, _ = split_revision(model)
    if model in HUB_CONFIGS:
        said = HUB_CONFIGS[model]
        native = own_config_dict(said, None) if has_own_format(said) else native_config_dict(said, None)
        config = VideoXLConfig.from_dict(native)
        note = "sizes of the released model; tokens of questions and subtitles are estimated, four characters each"
        layout = ChatFormat(_qwen2_like, _qwen2_like, config.traits.chat, config.traits.tokens.closing)
        stored = parse_dtype(str(said.get("dtype") or "float16"))
        return ModelSpec(config, layout, parse_dtype(dtype) or stored or torch.float16, (note,))
    raise CheckpointError(
        f"{model}: not a model folder, and not a model whose sizes are known ({', '.join([*EMBEDDED, *HUB_CONFIGS])})"
    )


def _qwen2_like(text: str) -> list[int]:
    """Give as many ids as Qwen2's tokenizer does for timestamps and the default prompt; an estimate for other text.

    In a timestamp ``Time`` is one token and so is every other character (SPEC 3.4). In the default prompt every
    special token, word, full stop and line break is one.
    """
    if text.startswith("Time "):
        return [0] * (len(text) - len("Time") + 1)
    if found := re.fullmatch(r"<([\d.]+) seconds>", text):
        return [0] * (len(found[1]) + 3)
    pieces = re.findall(r"<\|\w+\|>|\n|[A-Za-z]+|[^\sA-Za-z]", text)
    return [0] * sum(max(1, round(len(p) / 7)) if p.isalpha() else 1 for p in pieces)
