"""``load_pretrained_model`` of the released Video-XL package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from videoxl.inference.loading import load_tokenizer, pick_device, quantization_config, resolve, set_end_tokens
from videoxl.model.checkpoint import is_released, read_config
from videoxl.model.configuration import LlavaQwenConfig, VideoXLConfig
from videoxl.model.families import require
from videoxl.model.foreign import read_json_object, reading
from videoxl.model.released_config import tower_folder
from videoxl.released.clip_processor import CLIPImageProcessorPil
from videoxl.released.generate_v1 import VideoXLBeaconForCausalLM

PREPROCESSOR = "preprocessor_config.json"


def load_pretrained_model(
    model_path: str,
    model_base: str | None = None,
    model_name: str = "llava_qwen",
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: str | torch.device | dict[str, object] = "auto",
    attn_implementation: str = "sdpa",
    customized_config: VideoXLConfig | None = None,
    overwrite_config: dict[str, object] | None = None,
    **kwargs: Any,
) -> tuple[PreTrainedTokenizerBase, VideoXLBeaconForCausalLM, CLIPImageProcessorPil, int]:
    """Load a Video-XL checkpoint as released scripts do: tokenizer, model, image processor, longest context in tokens.

    Args:
        model_path: a folder or Hub id, in the released or in our own layout.
        model_base: must be None: adapters and projectors alone cannot be loaded.
        model_name: has no effect; the checkpoint's own files say what it is.
        load_8bit, load_4bit: quantise with bitsandbytes, except the vision parts.
        device_map: a device, ``auto`` (a GPU if there is one), or an accelerate device map.
        attn_implementation: any that transformers has.
        customized_config: a configuration to use instead of the checkpoint's.
        overwrite_config: keys of the released ``config.json`` to change first.
        kwargs: ``torch_dtype`` (float16 as released), and whatever else ``from_pretrained`` knows.

    Unlike the released loader, this one adds no token and no row to the embeddings: that row is random and never
    trained (SPEC 2.2). Raises ``ValueError`` for a ``model_base``, :class:`CheckpointError`
    for a checkpoint that is damaged or not Video-XL.
    """
    if model_base is not None:
        raise ValueError(f"model_base={model_base!r}: merge adapters into the model first, then load the result alone")
    folder = resolve(model_path)
    config = customized_config or _config(folder, overwrite_config or {})
    require(config.family, lambda family: family.beacons)
    kwargs.pop("multimodal", None)
    dtype = kwargs.pop("torch_dtype", kwargs.pop("dtype", torch.float16))
    bits = "int8" if load_8bit else "nf4" if load_4bit else None
    model = VideoXLBeaconForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        device_map=pick_device(device_map),
        attn_implementation=attn_implementation,
        quantization_config=kwargs.pop("quantization_config", quantization_config(bits)),
        **kwargs,
    ).eval()
    tokenizer = load_tokenizer(folder)
    set_end_tokens(model, tokenizer)
    longest = config.text_config.max_position_embeddings  # type: ignore[union-attr]
    return tokenizer, model, image_processor(config, folder), longest


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


def image_processor(config: VideoXLConfig, folder: Path) -> CLIPImageProcessorPil:
    """The CLIP image processor with our resizing, from the vision tower's own file if the checkpoint has one.

    It works with Pillow. Torchvision rounds resized pixels differently from those the model was trained on.
    """
    place = tower_folder(str(read_config(folder).get("mm_vision_tower", "vision_tower")), folder)
    if place is not None and (place / PREPROCESSOR).is_file():
        said = read_json_object(place / PREPROCESSOR)
        with reading(f"{PREPROCESSOR} of {place.name}"):
            processor: CLIPImageProcessorPil = CLIPImageProcessorPil.from_dict(said)
            return processor
    side = config.image_size
    return CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(config.image_mean),
        image_std=list(config.image_std),
    )
