"""``load_pretrained_model`` of the released packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from videoxl.inference.loading import load_tokenizer, pick_device, quantization_config, resolve, set_end_tokens
from videoxl.model.checkpoint import is_released, read_config
from videoxl.model.configuration import LlavaQwenConfig, VideoXLConfig
from videoxl.released.image_processors import image_processor_of
from videoxl.released.model import VideoXLForCausalLM

WITHOUT_EFFECT = ("multimodal", "low_cpu_mem_usage", "trust_remote_code")
"""Keywords of released scripts that change nothing: every checkpoint here sees, and no code of a checkpoint runs."""
KEYWORDS = frozenset(
    (
        *WITHOUT_EFFECT,
        "torch_dtype",
        "dtype",
        "device",
        "use_flash_attention_2",
        "quantization_config",
        "max_memory",
        "offload_folder",
        "offload_buffers",
        "use_safetensors",
        "strict",
    )
)
"""Keywords beyond the named arguments."""


def load_pretrained_model(
    model_path: str,
    model_base: str | None = None,
    model_name: str = "llava_qwen",
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: str | torch.device | dict[str, object] = "auto",
    attn_implementation: str | None = "sdpa",
    customized_config: VideoXLConfig | str | None = None,
    overwrite_config: dict[str, object] | None = None,
    **kwargs: Any,
) -> tuple[PreTrainedTokenizerBase, VideoXLForCausalLM, BaseImageProcessor, int]:
    """Load a checkpoint as released scripts do: tokenizer, model, image processor, longest context in tokens.

    Args:
        model_path: a folder or Hub id, in the released or in our own layout.
        model_base: must be None: adapters and projectors alone cannot be loaded.
        model_name: has no effect; the checkpoint's own files say what it is.
        load_8bit, load_4bit: quantise with bitsandbytes, except the vision parts.
        device_map: a device, ``auto`` (a GPU if there is one), or an accelerate device map.
        attn_implementation: any that transformers has; ``sdpa``, with a warning, where flash attention is not there.
        customized_config: a configuration, or the folder of one, to use instead of the checkpoint's.
        overwrite_config: keys of the released ``config.json`` to change first.
        kwargs: those of :data:`KEYWORDS`; ``torch_dtype`` is float16 as released.

    Unlike the released loader, this one adds no token and no row to the embeddings: that row is random and never
    trained (SPEC 2.2). Raises ``ValueError`` for a ``model_base`` or an unknown keyword, :class:`CheckpointError` for a
    checkpoint that is damaged or of no known family.
    """
    if model_base is not None:
        raise ValueError(f"model_base={model_base!r}: merge adapters into the model first, then load the result alone")
    folder = resolve(model_path)
    config = _customized(customized_config) or _config(folder, overwrite_config or {})
    options = _options(kwargs)
    bits = "int8" if load_8bit else "nf4" if load_4bit else None
    model = VideoXLForCausalLM.from_pretrained(
        folder,
        **{
            "config": config,
            "dtype": torch.float16,
            "device_map": pick_device(options.pop("device", device_map)),
            "attn_implementation": attn_implementation or "sdpa",
            "quantization_config": quantization_config(bits),
            **options,
        },
    ).eval()
    tokenizer = load_tokenizer(folder)
    set_end_tokens(model, tokenizer)
    return tokenizer, model, image_processor_of(config, folder), config.text.max_position_embeddings


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Keywords of ``from_pretrained``, from those of released scripts. Raises ``ValueError`` for unknown ones."""
    if unknown := [name for name in given if name not in KEYWORDS]:
        raise ValueError(
            f"load_pretrained_model does not know {', '.join(unknown)}: leave it out; beyond its own arguments it "
            f"takes {', '.join(sorted(KEYWORDS))}"
        )
    options = {name: value for name, value in given.items() if name not in WITHOUT_EFFECT}
    if "torch_dtype" in options:
        options["dtype"] = options.pop("torch_dtype")
    if options.pop("use_flash_attention_2", False):
        options["attn_implementation"] = "flash_attention_2"
    return options


def _customized(config: VideoXLConfig | str | None) -> VideoXLConfig | None:
    if not isinstance(config, str):
        return config
    made: VideoXLConfig = VideoXLConfig.from_pretrained(config)
    return made


def _config(folder: Path, overwrite: dict[str, object]) -> VideoXLConfig:
    found = {**read_config(folder), **overwrite}
    if overwrite and not is_released(found):
        raise ValueError(
            "overwrite_config holds released keys, and this checkpoint is in another layout: set them "
            "on the configuration and give that as customized_config"
        )
    klass = LlavaQwenConfig if is_released(found) else VideoXLConfig
    made: VideoXLConfig = klass.from_dict(found, name_or_path=str(folder))
    return made
