"""What ``AutoProcessor`` returns: a video processor and a tokenizer, for ``model.generate(**inputs)``.

Frames come from the reader that :class:`videoxl.VideoXL` uses, and ids from its prompt layout, so answers have the same
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BaseVideoProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import cached_file

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
"""Qwen's chat format. As in released prompts, a video stands before the text of its turn, followed by a line break."""

VIDEO_TOKEN = "<|vision_pad|>"
PROCESSOR_FILE = "processor_config.json"
SAMPLING_NAMES = ("fps", "max_fps", "max_frames", "num_frames", "start", "end")


class VideoXLVideoProcessor(BaseVideoProcessor):
    """Reads, samples, resizes and normalises videos: ``pixel_values_videos`` ``[sum of frames, 3, H, W]`` fp32.

    Takes what :meth:`VideoXL.encode` takes, with the same sampling settings (``fps``, ``num_frames`` ...). Resizes with
    Pillow's bicubic filter, bit for bit as released, instead of the base class's torch functions.
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

    def __call__(self, videos: object, **kwargs: Any) -> BatchFeature:
        """See :meth:`preprocess`."""
        return self.preprocess(videos, **kwargs)

    def preprocess(self, videos: object, **kwargs: Any) -> BatchFeature:
        """Read one video, or a list of them. Also returns ``timestamps``, a list of seconds for each video."""
        names = {name: kwargs[name] for name in SAMPLING_NAMES if kwargs.get(name) is not None}
        per_video = [self._read(video, names) for video in _as_list(videos)]
        pixels = torch.cat([p for p, _ in per_video])
        counts = torch.tensor([len(t) for _, t in per_video])
        data = {"pixel_values_videos": pixels, "frames_per_video": counts}
        feature = BatchFeature(data=data, tensor_type=kwargs.get("return_tensors"))
        feature["timestamps"] = [t for _, t in per_video]
        return feature

    def _read(self, video: object, settings: dict[str, Any]) -> tuple[torch.Tensor, list[float]]:
        with open_for_model(video, fps=settings.get("fps")) as source:
            sampling, whole = choose_sampling(source, settings, frames_per_group=self.frames_per_group)
            selection = source.select(sampling, whole_groups_of=whole)
            resize = picture_size(source, int(self.size["height"]), self.frame_fit)
            batches = list(source.read(selection, resize=resize))
        pixels = torch.from_numpy(np.concatenate([b.pixels_FHWC for b in batches]))
        times = [float(t) for b in batches for t in b.timestamps_F]
        return normalize_pixels(pixels, self.image_mean, self.image_std), times


class VideoXLProcessor(ProcessorMixin):
    """Turns text with one ``<|vision_pad|>`` per video into ids with visual tokens and timestamps."""

    def __init__(
        self,
        video_processor: VideoXLVideoProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
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
        if video_token_id is None and tokenizer is not None:
            video_token_id = tokenizer.convert_tokens_to_ids(video_token)
        self.video_token_id = video_token_id
        self.tokens_per_group, self.time_format = tokens_per_group, time_format
        super().__init__(video_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def from_config(cls, config: VideoXLConfig, tokenizer: PreTrainedTokenizerBase) -> VideoXLProcessor:
        """Make the processor of a model, with the sizes that its config gives."""
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
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs: Any) -> VideoXLProcessor:
        """Load the processor; where a folder has no processor files, make it from the config and the tokenizer.

        Released checkpoints have none.
        """
        name = pretrained_model_name_or_path
        try:
            cached_file(name, PROCESSOR_FILE)
        except OSError:  # there is no such file
            return cls.from_config(AutoConfig.from_pretrained(name), AutoTokenizer.from_pretrained(name))
        processor: VideoXLProcessor = super().from_pretrained(name, **kwargs)
        return processor

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        videos: object = None,
        *,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Make the model's inputs from a prompt, or from a list of them, which are padded on the left.

        Prompts hold one video token per video, in the order of ``videos``. Sampling settings (``fps=1, max_frames=64``
        ...) go to the video processor. Raises ``ValueError`` when the number of video tokens and of videos differ.
        """
        kwargs |= kwargs.pop("videos_kwargs", {})
        prompts = [text] if isinstance(text, str) else list(text or [])
        if not prompts:
            raise ValueError("text is missing: give a prompt, or use apply_chat_template")
        counts = [prompt.count(self.video_token) for prompt in prompts]
        wanted = sum(counts)
        clips = _flat(videos, counts)
        if wanted != len(clips):
            raise ValueError(f"the text has {wanted} video tokens ({self.video_token}) for {len(clips)} videos")
        data: dict[str, torch.Tensor] = {}
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
        if self.video_token_id is None:
            raise ValueError("the processor has neither a tokenizer nor a video_token_id: give one of them")
        return visual_span(
            timestamps,
            lambda text: self.tokenizer.encode(text, add_special_tokens=False),
            frames_per_group=self.video_processor.frames_per_group,
            tokens_per_group=self.tokens_per_group,
            video_token_id=self.video_token_id,
            time_format=self.time_format,
        ).ids

    def _ids(self, prompt: str, spans: Iterator[tuple[int, ...]]) -> list[int]:
        """Tokenise the pieces of text between videos one by one, as released prompts are."""
        ids: list[int] = []
        for number, piece in enumerate(prompt.split(self.video_token)):
            ids += next(spans) if number else ()
            ids += self.tokenizer.encode(piece, add_special_tokens=False)
        return ids


def _flat(videos: object, counts: Sequence[int]) -> list[object]:
    """The videos in order. ``apply_chat_template`` gives one list of videos per prompt, with ``counts`` videos each."""
    clips = [] if videos is None else _as_list(videos)
    nested = [clip for clip in clips if isinstance(clip, (list, tuple))]
    if len(nested) == len(clips) and [len(of_one_prompt) for of_one_prompt in nested] == list(counts):
        return [clip for of_one_prompt in nested for clip in of_one_prompt]
    return clips


def _as_list(videos: object) -> list[object]:
    """A list is several videos; a video given as a list of pictures stands in a list of its own."""
    return list(videos) if isinstance(videos, list) else [videos]
