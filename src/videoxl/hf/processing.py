"""The Hugging Face way in: ``AutoProcessor`` with a video processor, for ``model.generate(**inputs)``.

Frames come from the same reader, ids from the same prompt layout as in :class:`videoxl.VideoXL`, so the tokens are the
same. Lives beside the engine because it needs both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.video_processing_utils import BaseVideoProcessor

from videoxl.inference.prompt import visual_span
from videoxl.inference.video_input import choose_sampling, open_for_model, picture_size
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.vision import normalize_pixels

CHAT_TEMPLATE = r"""
{%- if messages[0]['role'] != 'system' -%}
  {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {{- '<|im_start|>' + message['role'] + '\n' -}}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] in ('video', 'video_url') -%}
        {{- '<|vision_pad|>\n' -}}
      {%- elif part['type'] == 'text' -%}
        {{- part['text'] -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
"""The Qwen format; a video stands before the text of its turn, followed by a line break, as in released prompts."""

VIDEO_TOKEN = "<|vision_pad|>"
SAMPLING_NAMES = ("fps", "max_fps", "max_frames", "num_frames", "start", "end")


class VideoXLVideoProcessor(BaseVideoProcessor):
    """Reads, samples, resizes and normalises videos: ``pixel_values_videos`` ``[sum of frames, 3, H, W]`` fp32.

    Takes what :meth:`VideoXL.encode` takes, with the same sampling settings (``fps``, ``num_frames`` ...). Resizing is
    Pillow's bicubic, bit for bit as released; the generic torch resizing of the base class is not used.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values_videos", "frames_per_video"]
    size: ClassVar[dict[str, int]] = {"height": 384, "width": 384}
    image_mean: ClassVar[list[float]] = [0.5, 0.5, 0.5]
    image_std: ClassVar[list[float]] = [0.5, 0.5, 0.5]
    frames_per_group = 4
    frame_fit: Literal["crop", "stretch"] = "stretch"

    def __init__(
        self, frames_per_group: int = 4, frame_fit: Literal["crop", "stretch"] = "stretch", **kwargs: Any
    ) -> None:
        """``frame_fit``: whether frames are stretched to the square or cropped to it (Video-XL)."""
        super().__init__(**kwargs)
        self.frames_per_group, self.frame_fit = frames_per_group, frame_fit

    def __call__(self, videos: Any, **kwargs: Any) -> BatchFeature:
        return self.preprocess(videos, **kwargs)

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """``videos``: one video or a list of them. Also returns ``timestamps``, a list of seconds for each video."""
        names = {name: kwargs[name] for name in SAMPLING_NAMES if kwargs.get(name) is not None}
        per_video = [self._read(video, names) for video in _as_list(videos)]
        pixels = torch.cat([p for p, _ in per_video])
        counts = torch.tensor([len(t) for _, t in per_video])
        data = {"pixel_values_videos": pixels, "frames_per_video": counts}
        feature = BatchFeature(data=data, tensor_type=kwargs.get("return_tensors"))
        feature["timestamps"] = [t for _, t in per_video]
        return feature

    def _read(self, video: Any, settings: dict[str, Any]) -> tuple[torch.Tensor, list[float]]:
        with open_for_model(video, fps=settings.get("fps")) as source:
            sampling, whole = choose_sampling(source, settings, frames_per_group=self.frames_per_group)
            selection = source.select(sampling, whole_groups_of=whole)
            resize = picture_size(source, int(self.size["height"]), self.frame_fit)
            batches = list(source.read(selection, resize=resize))
        pixels = torch.from_numpy(np.concatenate([b.pixels_FHWC for b in batches]))
        times = [float(t) for b in batches for t in b.timestamps_F]
        return normalize_pixels(pixels, self.image_mean, self.image_std), times


class VideoXLProcessor(ProcessorMixin):
    """Video processor and tokenizer: text with one ``<|vision_pad|>`` per video becomes ids with timestamps."""

    def __init__(
        self,
        video_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        tokens_per_group: int = 144,
        video_token: str = VIDEO_TOKEN,
        video_token_id: int | None = None,
        time_format: str = "Time {:.1f}s:",
        **kwargs: Any,
    ) -> None:
        """``video_token`` stands for a video in text; ``video_token_id`` for one visual token among ids (by default the
        id of the former, which Video-XL's tokenizer does not know)."""
        self.video_token = video_token
        self.video_token_id = tokenizer.convert_tokens_to_ids(video_token) if video_token_id is None else video_token_id
        self.tokens_per_group, self.time_format = tokens_per_group, time_format
        super().__init__(video_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def from_config(cls, config: VideoXLConfig, tokenizer: Any) -> VideoXLProcessor:
        """The processor of a model: sizes from its config."""
        video_processor = VideoXLVideoProcessor(
            frames_per_group=config.frames_per_group,
            frame_fit=config.frame_fit,
            size={"height": config.image_size, "width": config.image_size},
            image_mean=list(config.image_mean),
            image_std=list(config.image_std),
        )
        return cls(
            video_processor,
            tokenizer,
            tokens_per_group=config.tokens_per_group,
            video_token_id=config.video_token_id,
            time_format=config.time_format,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Released folders have no processor files: the processor is built from the config and the tokenizer."""
        from transformers import AutoConfig, AutoTokenizer
        from transformers.utils import cached_file

        name = pretrained_model_name_or_path
        if cached_file(name, "processor_config.json", _raise_exceptions_for_missing_entries=False) is not None:
            return super().from_pretrained(name, **kwargs)
        return cls.from_config(AutoConfig.from_pretrained(name), AutoTokenizer.from_pretrained(name))

    def __call__(
        self, text: Any = None, videos: Any = None, *, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """``text``: a prompt or a list of them with one video token per video, in order; left-padded as a batch.

        Sampling settings (``fps=1, max_frames=64`` ...) go to the video processor. Raises ``ValueError`` when the
        number of video tokens and of videos differ.
        """
        kwargs = {**kwargs, **kwargs.pop("videos_kwargs", {})}
        prompts = [text] if isinstance(text, str) else list(text or [])
        if not prompts:
            raise ValueError("text is missing: give a prompt, or use apply_chat_template")
        counts = [prompt.count(self.video_token) for prompt in prompts]
        wanted = sum(counts)
        clips = _flat(videos, counts)
        if wanted != len(clips):
            raise ValueError(f"the text has {wanted} video tokens ({self.video_token}) for {len(clips)} videos")
        data: dict[str, Any] = {}
        spans: list[tuple[int, ...]] = []
        if clips:
            seen = self.video_processor(clips, **kwargs)
            data = {name: seen[name] for name in ("pixel_values_videos", "frames_per_video")}
            spans = [self._span(times) for times in seen["timestamps"]]
        remaining = iter(spans)
        rows = [self._ids(prompt, remaining) for prompt in prompts]
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side="left")
        return BatchFeature(data={**padded, **data}, tensor_type=return_tensors)

    def _span(self, timestamps: Sequence[float]) -> tuple[int, ...]:
        return visual_span(
            timestamps,
            lambda text: self.tokenizer.encode(text, add_special_tokens=False),
            frames_per_group=self.video_processor.frames_per_group,
            tokens_per_group=self.tokens_per_group,
            video_token_id=self.video_token_id,
            time_format=self.time_format,
        ).ids

    def _ids(self, prompt: str, spans: Any) -> list[int]:
        """Tokenise the text around each video apart, as released prompts are."""
        ids: list[int] = []
        for number, piece in enumerate(prompt.split(self.video_token)):
            ids += next(spans) if number else ()
            ids += self.tokenizer.encode(piece, add_special_tokens=False)
        return ids


def _flat(videos: Any, counts: Sequence[int]) -> list[Any]:
    """Videos in order. The chat template nests them per prompt: a list of as many lists as its prompts have videos."""
    clips = [] if videos is None else _as_list(videos)
    if len(clips) == len(counts) and all(isinstance(c, (list, tuple)) and len(c) == n for c, n in zip(clips, counts)):
        return [clip for prompt_clips in clips for clip in prompt_clips]
    return clips


def _as_list(videos: Any) -> list[Any]:
    """One video or several: a list of whole videos is several, a list of pictures is what its caller nests."""
    return list(videos) if isinstance(videos, list) else [videos]
