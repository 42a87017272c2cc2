"""Make transformers' Auto classes know our models and processors; run once by ``import videoxl``."""

from __future__ import annotations

import re

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoVideoProcessor,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from videoxl.inference.processing import VideoXLProcessor, VideoXLVideoProcessor
from videoxl.inference.released import VideoXLForCausalLM
from videoxl.model.configuration import LlavaQwenConfig, VideoXLConfig
from videoxl.model.conversion import RENAMES
from videoxl.model.videoxl import VideoXLForConditionalGeneration, VideoXLModel


def register() -> None:
    """Idempotent."""
    for config in (VideoXLConfig, LlavaQwenConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    for auto, klass in (
        (AutoModel, VideoXLModel),
        (AutoModelForImageTextToText, VideoXLForConditionalGeneration),
        (AutoModelForCausalLM, VideoXLForCausalLM),
        (AutoProcessor, VideoXLProcessor),
        (AutoVideoProcessor, VideoXLVideoProcessor),
    ):
        auto.register(VideoXLConfig, klass, exist_ok=True)
    renames = [WeightRenaming("^" + re.escape(released), native) for released, native in RENAMES]
    register_checkpoint_conversion_mapping(VideoXLConfig.model_type, renames, overwrite=True)
