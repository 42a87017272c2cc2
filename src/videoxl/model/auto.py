"""Make the Auto classes of transformers know our models; run once by ``import videoxl``."""

from __future__ import annotations

import re

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from videoxl.model.configuration import LlavaQwenConfig, VideoXLConfig
from videoxl.model.conversion import RENAMES
from videoxl.model.videoxl import VideoXLForConditionalGeneration, VideoXLModel


def register() -> None:
    """Idempotent. ``AutoModelForCausalLM`` and the processors are registered by :mod:`videoxl.inference`."""
    for config in (VideoXLConfig, LlavaQwenConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(VideoXLConfig, VideoXLModel, exist_ok=True)
    AutoModelForImageTextToText.register(VideoXLConfig, VideoXLForConditionalGeneration, exist_ok=True)
    renames = [WeightRenaming("^" + re.escape(released), native) for released, native in RENAMES]
    register_checkpoint_conversion_mapping(VideoXLConfig.model_type, renames, overwrite=True)
