"""Video-XL-Pro's own helpers, in both of their released forms: ``process_video``, ``generate_response`` ...

The earlier ``process_video`` returned frames alone; here they carry their times to ``generate_response``. The later
one also takes a tokenizer and returns frames and timestamps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from videoxl.config import Sampling
from videoxl.inference.prompt import round_time
from videoxl.inference.video_input import open_for_model
from videoxl.model.families import get_family
from videoxl.released.chat import only_path
from videoxl.released.mm_utils import tokenizer_image_token
from videoxl.released.time_embedding import make_time_embedding

GENERATION = {
    "do_sample": True,
    "temperature": 0.01,
    "top_p": 0.001,
    "num_beams": 1,
    "use_cache": True,
    "max_new_tokens": 4096,
}
"""What ``generate_response`` asks for by default, as released."""


def load_image_processor(model: Any, tokenizer: PreTrainedTokenizerBase) -> BaseImageProcessor:
    """The image processor of a model. The tokenizer gets no new tokens: no model was trained on them."""
    processor: BaseImageProcessor = model.get_vision_tower().image_processor
    return processor


def load_video(video_path: Any, max_frames_num: int) -> tuple[np.ndarray, list[float]]:
    """``max_frames_num`` evenly spread frames, uint8 ``[F, H, W, 3]``, and their times in seconds to one decimal.

    Frames of a shorter video appear several times, as released. The times are those of the file.
    """
    with open_for_model(only_path(video_path)) as source:
        if source.times_F is None:
            raise ValueError(f"{source.name} does not say how many frames it has: give a file or all of its frames")
        if type(max_frames_num) is not int or max_frames_num < 1:
            raise ValueError(f"max_frames_num must be a whole number of at least 1, got {max_frames_num!r}")
        numbers = np.linspace(0, len(source.times_F) - 1, max_frames_num, dtype=int).tolist()
        parts = list(source.read(source.select(Sampling(indices=tuple(numbers))), resize=None))
    times = [round_time(seconds) for part in parts for seconds in part.timestamps_F]
    return np.concatenate([part.pixels_FHWC for part in parts]), times


def process_video(
    video_path: Any,
    tokenizer: Any = None,
    image_processor: Any = None,
    model_device: Any = None,
    max_frames: int | None = None,
    gen_kwargs: object = None,
) -> Any:
    """Read a video for ``generate``: float16 ``[F, 3, S, S]`` on ``model_device``, at most ``max_frames`` (128) frames.

    ``process_video(path, tokenizer, image_processor, device, max_frames)`` also returns the list that is
    ``time_embedding``; ``process_video(path, image_processor, device, max_frames)`` returns the frames alone, which
    carry it. ``gen_kwargs`` has no effect, as released.
    """
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        pixels, times = _processed(video_path, image_processor, model_device, max_frames or 128)
        time_format = getattr(image_processor, "time_format", None) or get_family("video-xl-pro").tokens.time_format
        return pixels, [make_time_embedding(tokenizer, times, time_format=time_format, device=pixels.device)]
    if tokenizer is not None:  # the earlier form, without a tokenizer: each argument stands one place before
        image_processor, model_device, max_frames = tokenizer, image_processor, model_device or max_frames
    pixels, times = _processed(video_path, image_processor, model_device, max_frames or 128)
    pixels.timestamps = times  # type: ignore[attr-defined]  # generate_response has the tokenizer that makes ids of them
    return pixels


def _processed(video_path: Any, image_processor: Any, device: Any, max_frames: int) -> tuple[torch.Tensor, list[float]]:
    if not hasattr(image_processor, "preprocess"):
        got = type(image_processor).__name__
        raise ValueError(f"process_video needs the image processor that load_image_processor returns, got {got}")
    frames, times = load_video(video_path, max_frames)
    pixels: torch.Tensor = image_processor.preprocess(list(frames), return_tensors="pt")["pixel_values"]
    return pixels.to(device or "cpu", dtype=torch.float16), times


def generate_response(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    video_tensor: torch.Tensor,
    time_stamps: Sequence[torch.Tensor] | Mapping[str, object] | None = None,
    gen_kwargs: Mapping[str, object] | None = None,
) -> str:
    """The answer to a prompt with ``<image>`` in it, as text.

    In the earlier form ``gen_kwargs`` stands in the place of ``time_stamps``, and the frames carry their times. Errors
    are raised; the released helper returned them as the answer.
    """
    if isinstance(time_stamps, Mapping):
        time_stamps, gen_kwargs = None, time_stamps
    if time_stamps is None and (times := getattr(video_tensor, "timestamps", None)) is not None:
        config = model.config
        time_stamps = [
            make_time_embedding(
                tokenizer, times, frames_per_group=config.frames_per_group, time_format=config.time_format
            )
        ]
    input_ids: Any = tokenizer_image_token(prompt, tokenizer, return_tensors="pt")
    output = model.generate(
        input_ids[None].to(model.device),
        images=[video_tensor],
        time_embedding=time_stamps,
        modalities=["video"],
        **(GENERATION if gen_kwargs is None else gen_kwargs),
    )
    text: str = tokenizer.batch_decode(output, skip_special_tokens=True)[0]
    return text.strip()


__all__ = ["generate_response", "load_image_processor", "load_video", "process_video"]
