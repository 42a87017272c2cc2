"""Makes transformers' Auto classes know the models of this package."""

from __future__ import annotations

import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoVideoProcessor,
)

from videoxl.hf.image_processing import VideoXLImageProcessor
from videoxl.hf.processing import VideoXLProcessor
from videoxl.hf.video_processing import VideoXLVideoProcessor
from videoxl.model.configuration import LlavaQwenConfig, VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.released.model import VideoXLForCausalLM

ANSWERING = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM")
"""Classes that answer about pictures, as far as the installed transformers has them; behind them are the pipelines
``image-text-to-text`` and ``any-to-any``."""


def register() -> None:
    """Register configurations, models and processors. May be called again."""
    for config in (VideoXLConfig, LlavaQwenConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    for auto in (AutoModel, AutoModelForCausalLM):  # the released AutoModel chats too
        auto.register(VideoXLConfig, VideoXLForCausalLM, exist_ok=True)
    for name in ANSWERING:
        if (auto := getattr(transformers, name, None)) is not None:
            auto.register(VideoXLConfig, VideoXLForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(VideoXLConfig, VideoXLProcessor, exist_ok=True)
    AutoVideoProcessor.register(VideoXLConfig, VideoXLVideoProcessor, exist_ok=True)
    # whichever backend is asked for, the pixels are the same
    backends = dict.fromkeys(("pil", "torchvision"), VideoXLImageProcessor)
    AutoImageProcessor.register(VideoXLConfig, image_processor_classes=backends, exist_ok=True)
