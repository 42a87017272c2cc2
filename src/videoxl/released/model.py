"""The model with the methods of released scripts: ``chat``, ``generate`` with images, ``get_vision_tower`` ..."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import is_flash_attn_2_available

from videoxl.inference.prompt import IMAGE_TOKEN_INDEX
from videoxl.model.private import attention_kernel
from videoxl.model.videoxl import VideoXLForConditionalGeneration, VideoXLModel
from videoxl.released.chat import Turn, chat
from videoxl.released.generate import generate_from_images
from videoxl.released.vision_tower import ReleasedVisionTower


class NoMemory:
    """Takes the place of the released model's state of its last video. This model has none."""

    def reset(self) -> None:
        """Do nothing. Released scripts call it between videos."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"model.memory.{name} cannot be set: this model keeps nothing between calls")


class VideoXLForCausalLM(VideoXLForConditionalGeneration):
    """What ``AutoModelForCausalLM``, ``AutoModel`` and ``load_pretrained_model`` return."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As the class above. Flash attention that is not installed becomes ``sdpa``, with a warning.

        Released scripts ask for it always. Which kernel computes attention is no part of what the models compute.
        """
        config = kwargs.get("config")  # into which the Auto classes put what they were asked for
        asked = kwargs.get("attn_implementation") or (attention_kernel(config) if config is not None else None)
        if asked == "flash_attention_2" and not is_flash_attn_2_available():
            warnings.warn("flash_attention_2 is not available here: attention is computed with sdpa", stacklevel=2)
            kwargs["attn_implementation"] = "sdpa"
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def chat(
        self,
        video_path: object,
        tokenizer: PreTrainedTokenizerBase,
        user_prompt: str,
        chat_history: list[Turn] | None = None,
        return_history: bool = True,
        max_num_frames: int = 512,
        sample_fps: float | None = 1.0,
        max_sample_fps: float | None = 4.0,
        generation_config: Mapping[str, object] | GenerationConfig | None = None,
    ) -> str | tuple[str, list[Turn]]:
        """One question about a video, as on the released model card; see :func:`videoxl.released.chat.chat`."""
        sampling = (max_num_frames, sample_fps, max_sample_fps)
        answer = chat(self, video_path, tokenizer, user_prompt, chat_history, sampling, generation_config)
        if not return_history:
            return answer
        turn: list[Turn] = [{"role": "user", "content": user_prompt}, {"role": "assistant", "content": answer}]
        return answer, [*(chat_history or []), *turn]

    def generate(self, inputs: Any = None, *args: Any, images: Any = None, **kwargs: Any) -> Any:
        """With ``images``: the released call, :func:`videoxl.released.generate.generate_from_images`. Without them:
        transformers' own."""
        given: Any = inputs if inputs is not None else kwargs.get("input_ids")
        if images is not None:
            rest = {name: value for name, value in kwargs.items() if name != "input_ids"}
            if args:
                rest["generation_config"] = args[0]
            return generate_from_images(self, given, images, **rest)
        if isinstance(given, torch.Tensor) and bool((given == IMAGE_TOKEN_INDEX).any()):
            raise ValueError(f"the prompt holds '<image>' (id {IMAGE_TOKEN_INDEX}) but there are no images=[...]")
        return super().generate(inputs, *args, **kwargs)

    @property
    def memory(self) -> NoMemory:
        """Lets ``model.memory.reset()`` of released scripts run."""
        return NoMemory()

    def get_model(self) -> VideoXLModel:
        """The model without its language-model head."""
        return self.model

    def get_vision_tower(self) -> ReleasedVisionTower:
        """The vision tower, with its ``image_processor``."""
        return ReleasedVisionTower(self)
