"""Loads what is no Video-XL from a folder with transformers' classes: a Qwen2, a CLIP, a SigLIP. No code of it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from videoxl.errors import CheckpointError
from videoxl.model.checkpoint import tensors
from videoxl.model.config_values import OF_EITHER, OF_TEXT, OF_VISION, check_heads, check_values, stated
from videoxl.model.folder import built_without_memory
from videoxl.model.foreign import open_regular, read_json_object, reading
from videoxl.model.wrong_folder import ADAPTER_FILE, what_it_is

NESTED = {"text_config": OF_TEXT, "vision_config": OF_VISION}
FREE_SIZES = {name: rule for name, rule in OF_TEXT.items() if name != "model_type"}
"""Rules for the sizes of a language model or tower of any type."""


def config_of_part(folder: Path) -> PreTrainedConfig:
    """The configuration of a folder that transformers knows the type of.

    Raises :class:`CheckpointError` for a damaged one, and for one that only code of the folder could read.
    """
    path = folder / "config.json"
    if (folder / ADAPTER_FILE).exists() or not path.exists():
        raise CheckpointError(what_it_is(folder))
    what = f"config.json of {folder.name}"
    said = read_json_object(path, what)
    try:
        check_values(said, {**OF_EITHER, **FREE_SIZES})
        for name in NESTED:
            inner = said.get(name)
            if isinstance(inner, dict):
                check_values(inner, {n: rule for n, rule in NESTED[name].items() if n != "model_type"}, f"{name}.")
                check_heads(inner, f"{name}.")
    except CheckpointError as error:
        raise CheckpointError(f"{what}: {error}") from None
    with reading(what):
        kind = said.get("model_type")
        if not isinstance(kind, str):
            raise CheckpointError(f"{what} names no model_type")
        own: type[PreTrainedConfig] = type(AutoConfig.for_model(kind))
        made = own(**stated(own, {key: value for key, value in said.items() if key != "model_type"}))
        made.name_or_path = str(folder)
        return made


def load_part(kind: Any, folder: Path, *, dtype: torch.dtype | str = "auto") -> Any:
    """Load a model of the transformers class ``kind``. Raises :class:`CheckpointError` naming what is wrong.

    Weights are safetensors. The sizes in ``config.json`` are compared with the weights before anything is allocated.
    """
    config: Any = config_of_part(folder)
    if not isinstance(config, kind.config_class):
        config = getattr(config, "vision_config", config)
    held = tensors(folder)
    planned = built_without_memory(kind, config, f"config.json of {folder.name}")
    wanted = sum(parameter.numel() for parameter in planned.parameters())
    numbers = sum(torch.Size(entry["shape"]).numel() for entry in held.values())
    if wanted > 1.05 * numbers + 1000:
        raise CheckpointError(
            f"config.json of {folder.name} describes a model of {wanted:,} numbers, its weights hold {numbers:,}"
        )
    if (folder / "generation_config.json").exists():
        os.close(open_regular(folder / "generation_config.json"))
    with reading(f"the weights of {folder.name}"):
        return kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="sdpa",
            trust_remote_code=False,
        )
