"""What ``AutoProcessor`` returns: a video processor and a tokenizer, for ``model.generate(**inputs)``.

Frames come from the reader that :class:`videoxl.VideoXL` uses, and ids from its prompt layout, so answers have the same
tokens.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    BatchFeature,
    GenerationConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import cached_file

from videoxl.errors import CheckpointError
from videoxl.hf.content import Kind, Media, Message, local_source, read_messages, sampling_settings
from videoxl.hf.image_processing import VideoXLImageProcessor
from videoxl.hf.video_processing import Picture, VideoXLVideoProcessor, as_list, crop_reader, read_image
from videoxl.inference.loading import check_processor_files, load_tokenizer, resolve, tokenizer_of
from videoxl.inference.prompt import visual_span
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.foreign import reading
from videoxl.text import PLACEHOLDER, require_characters

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
      {%- elif part['type'] in ('image', 'image_url') -%}
        {{- '<|image_pad|>\n' -}}
      {%- elif part['type'] == 'text' -%}
        {{- part['text'] -}}
      {%- else -%}
        {{- raise_exception('unknown type of part: ' + part['type']) -}}
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

VIDEO_TOKEN, IMAGE_TOKEN = "<|vision_pad|>", "<|image_pad|>"
PROCESSOR_FILE = "processor_config.json"


class VideoXLProcessor(ProcessorMixin):
    """Turns text with a ``<|vision_pad|>`` per video and an ``<|image_pad|>`` per image into ids and pixels.

    A video becomes visual tokens with timestamps. An image becomes a video of one frame, or crops (Video-XL), as
    :meth:`VideoXL.encode` reads it.
    """

    def __init__(
        self,
        video_processor: VideoXLVideoProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        tokens_per_group: int = 144,
        video_token: str = VIDEO_TOKEN,
        video_token_id: int | None = None,
        time_format: str = "Time {:.1f}s:",
        image_token: str = IMAGE_TOKEN,
        stills: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """``video_token`` stands for a video in text; ``video_token_id`` for one visual token among ids (by default the
        id of the former, which Video-XL's tokenizer does not know). ``stills``: how images are read, see
        :func:`how_stills_are_read`; without it, images are refused."""
        if kwargs:
            raise ValueError(f"the processor does not know {next(iter(kwargs))!r}")
        self.video_token, self.image_token, self.stills = video_token, image_token, stills
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
            stills=how_stills_are_read(config),
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs: Any) -> VideoXLProcessor:
        """Load the processor; where a folder has no processor files, make it from the config and the tokenizer.

        Released checkpoints have none. No code of the folder is run.
        """
        name, options = pretrained_model_name_or_path, {**kwargs, "trust_remote_code": False}
        hub = {key: options[key] for key in HUB_OPTIONS if key in options}
        if Path(name).is_dir():
            check_processor_files(Path(name))
        try:
            cached_file(name, PROCESSOR_FILE, **{key: value for key, value in hub.items() if key in FILE_OPTIONS})
        except OSError:  # there is no such file
            folder = Path(name)
            words = load_tokenizer(folder) if folder.is_dir() else tokenizer_of(resolve(name, kwargs.get("revision")))
            return cls.from_config(VideoXLConfig.from_pretrained(name, **hub), words)
        with reading(f"the processor of {Path(name).name}"):
            processor: VideoXLProcessor = super().from_pretrained(name, **options)
        if processor.stills is None:  # its files are older than the reading of images
            with contextlib.suppress(OSError, CheckpointError):  # a folder of a processor alone has no config
                processor.stills = how_stills_are_read(VideoXLConfig.from_pretrained(name, **hub))
        return processor

    def save_pretrained(self, save_directory: str | os.PathLike[str], *given: Any, **kwargs: Any) -> Any:
        """Save the processor, and for ``AutoImageProcessor`` the part of it that reads images."""
        saved = super().save_pretrained(save_directory, *given, **kwargs)
        VideoXLImageProcessor.of(self.video_processor, self.stills).save_pretrained(save_directory)
        return saved

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        videos: object = None,
        images: object = None,
        *,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Make the model's inputs from a prompt, or from a list of them, which are padded.

        Prompts hold one video token per video and one image token per image, in the order of ``videos`` and ``images``.
        ``padding_side`` is ``left`` (default) or ``right``; sampling settings (``fps=1, max_frames=64`` ...) hold for
        all videos. Raises ``ValueError`` when the numbers of tokens and of videos or images differ, and for settings
        that nothing here reads.
        """
        side, settings = call_settings(kwargs)
        prompts = [text] if isinstance(text, str) else list(text or [])
        if not prompts:
            raise ValueError("text is missing: give a prompt, or use apply_chat_template")
        given: dict[Kind, list[Media]] = {
            "video": self._placed("video", self.video_token, videos, prompts),
            "image": self._placed("image", self.image_token, images, prompts),
        }
        pieces = [self._split(prompt, given) for prompt in prompts]
        for part in (part for parts in pieces for part in parts if isinstance(part, str)):
            self._check_text(part)
        return self.inputs(pieces, settings, side, return_tensors)

    def _check_text(self, text: str) -> None:
        """Refuse what is no text, and say what looks like a video and is read as text."""
        require_characters(text, "the text")
        if found := PLACEHOLDER.search(text):
            warnings.warn(
                f"the text holds {found[0]}, which shows nothing: a video is a part of a message, {{'type': 'video', "
                f"'path': ...}}, or {self.video_token} in a text",
                stacklevel=3,
            )

    def _placed(self, kind: Kind, token: str, given: object, prompts: Sequence[str]) -> list[Media]:
        """The videos or images in the order of their tokens: ``given`` for all prompts, or a list for each."""
        counts = [prompt.count(token) for prompt in prompts]
        items = [] if given is None else as_list(given)
        nested = [item for item in items if isinstance(item, (list, tuple))]
        found = items
        if len(nested) == len(items) == len(prompts) and _are_of_prompts(nested, counts):
            found = [item for of_one in nested for item in of_one]
            pairs = [*zip(counts, map(len, nested))]
        else:
            pairs = [(sum(counts), len(items))]
        for tokens, number in pairs:
            if tokens != number:
                raise ValueError(f"the text has {tokens} {kind} tokens ({token}) for {number} {kind}s")
        return [item if isinstance(item, Media) else Media(kind, local_source(item, kind)) for item in found]

    def _split(self, prompt: str, given: Mapping[Kind, list[Media]]) -> list[str | Media]:
        """The pieces of text, and what stands between them, which is taken out of ``given``."""
        pieces = re.split(f"({re.escape(self.video_token)}|{re.escape(self.image_token)})", prompt)
        kinds: dict[str, Kind] = {self.video_token: "video", self.image_token: "image"}
        return [given[kinds[piece]].pop(0) if piece in kinds else piece for piece in pieces]

    def inputs(
        self,
        prompts: Sequence[Sequence[str | Media]],
        settings: Mapping[str, Any],
        padding_side: str = "left",
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """The model's inputs of prompts that are cut into texts, videos and images."""
        encoded = [[self.encode(part, settings) for part in parts] for parts in prompts]
        rows = [[token for ids, _ in parts for token in ids] for parts in encoded]
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side=padding_side)
        shown = [picture for parts in encoded for _, picture in parts if picture is not None]
        return BatchFeature(data={**padded, **pixel_inputs(shown)}, tensor_type=return_tensors)

    def encode(self, part: str | Media, settings: Mapping[str, Any]) -> tuple[list[int], Picture | None]:
        """The ids of a piece of text, or of a video or image, and its pixels."""
        if isinstance(part, str):
            return self.tokenizer.encode(part, add_special_tokens=False), None
        if part.kind == "image":
            picture = read_image(self.video_processor, self.stills, part)
        else:
            picture = self.video_processor.read(part, settings, crops=crop_reader(self.video_processor, self.stills))
        if picture.times:
            return list(self._span(picture.times)), picture
        stills = cast(dict[str, Any], self.stills)
        merged = stills["merge"] == "unires" and len(picture.pixels_NCHW) > 1
        tokens = (len(picture.pixels_NCHW) - 1) * stills["merged_tokens"] if merged else None
        count = len(picture.pixels_NCHW) * stills["tokens"] if tokens is None else tokens
        return [stills["token_id"]] * count, picture

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

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = None,
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The prompt of a conversation or of a list of conversations; with ``tokenize``, what ``__call__`` makes of it.

        A part of a message is ``{"type": "text", "text": ...}``, ``{"type": "video", "path": ...}`` or ``{"type":
        "image", "path": ...}`` (or ``video``, ``image``, ``url`` in the place of ``path``). A video may have sampling
        settings of its own, ``{"type": "video", "path": "a.mp4", "num_frames": 64, "video_start": 10}``; those in
        ``processor_kwargs`` hold for all others. Raises ``ValueError`` for parts and settings that are not known.
        """
        template_kwargs, settings = _template_kwargs(chat_template, kwargs)
        settings |= processor_kwargs or {}
        if unread := [name for name in NOT_READ if template_kwargs.pop(name, None)]:
            raise ValueError(f"apply_chat_template does not read {unread[0]}: {NOT_READ[unread[0]]}")
        batched = _is_batch(conversation)
        conversations = [read_messages(one) for one in (conversation if batched else [conversation])]
        texts = [
            self.render(
                messages,
                chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **template_kwargs,
            )
            for messages in conversations
        ]
        if not tokenize:
            call_settings(settings)
            return texts if batched else texts[0]
        media = [[media for message in messages for media in message.media] for messages in conversations]
        shown: dict[Kind, list[list[Media]]] = {
            kind: [[one for one in row if one.kind == kind] for row in media] for kind in ("video", "image")
        }
        tensors = None if return_tensors == "auto" else return_tensors
        inputs = self(texts, shown["video"], shown["image"], **{"return_tensors": tensors, **settings})
        return inputs if return_dict else inputs["input_ids"]

    def render(self, messages: Sequence[Message], chat_template: str | None = None, **kwargs: Any) -> str:
        """The text of a conversation, with a token in the place of each video and image."""
        plain = [self._plain(message, chat_template is not None) for message in messages]
        text: str = super().apply_chat_template(plain, chat_template, tokenize=False, **kwargs)
        return text

    def split(self, pieces: Sequence[str], media: Sequence[Media]) -> list[list[str | Media]]:
        """Pieces of one text cut at their tokens, in whose places the media stand. Raises ``ValueError`` if they do not
        match."""
        whole = "".join(pieces)
        given: dict[Kind, list[Media]] = {
            kind: self._placed(kind, token, [one for one in media if one.kind == kind], [whole])
            for kind, token in self._tokens.items()
        }
        return [self._split(piece, given) for piece in pieces]

    @property
    def _tokens(self) -> dict[Kind, str]:
        return {"video": self.video_token, "image": self.image_token}

    def _plain(self, message: Message, own_template: bool) -> dict[str, Any]:
        """A message for a template: a text, in which tokens stand for videos and images, each before a line break."""
        if own_template:
            parts = [{"type": "text", "text": p} if isinstance(p, str) else {"type": p.kind} for p in message.parts]
            return {"role": message.role, "content": parts if message.media else "".join(map(str, message.parts))}
        texts = [part if isinstance(part, str) else f"{self._tokens[part.kind]}\n" for part in message.parts]
        return {"role": message.role, "content": "".join(texts)}


# ---------------------------------------------------------------------------------------------------------- settings

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "trust_remote_code")
FILE_OPTIONS = HUB_OPTIONS[:-1]
NOT_READ = {
    "tools": "the released models were not trained to use tools",
    "documents": "write their text into a message",
    "load_audio_from_video": "the models hear no sound",
    "return_assistant_tokens_mask": "videoxl.hf.collator.VideoXLDataCollator makes labels of assistant turns",
    "sanitize_control_tokens": "take control tokens out of the texts, or use VideoXL.ask, which reads them as text",
}
"""Arguments of ``apply_chat_template`` that the models have no use for, and what to do instead."""
FIXED: dict[str, tuple[object, ...]] = {
    "padding": (True, "longest"),
    "truncation": (False,),
    "add_special_tokens": (False,),
    "do_sample_frames": (True,),
    "return_attention_mask": (True,),
}
"""Settings that callers of processors often give, and the values that say what happens here anyway."""


def call_settings(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """``padding_side`` and the sampling settings of a call. Raises ``ValueError`` for all that is not read."""
    flat = {name: value for name, value in given.items() if name not in NESTED}
    for name in NESTED:
        flat |= given.get(name) or {}
    side = flat.pop("padding_side", None) or "left"
    if side not in ("left", "right"):
        raise ValueError(f"padding_side must be left or right, got {side!r}")
    for name, allowed in FIXED.items():
        value = flat.pop(name, None)
        if value is not None and value not in allowed:
            raise ValueError(f"the processor cannot honour {name}={value!r}; it can {name}={allowed[0]!r}")
    return side, sampling_settings(flat, "the processor")


NESTED = ("text_kwargs", "images_kwargs", "videos_kwargs", "common_kwargs")


def _template_kwargs(chat_template: str | None, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of the further arguments a template reads, and what the processor is to read."""
    for_template = {n: v for n, v in given.items() if n in NOT_READ or re.search(rf"\b{n}\b", chat_template or "")}
    rest = {name: value for name, value in given.items() if name not in for_template}
    if generating := [name for name in rest if name in GenerationConfig().to_dict()]:
        warnings.warn(  # pipelines hand them to the processor, and not to generate()
            f"{generating[0]} is a setting of generate() and does nothing here: give it to a pipeline as "
            f"generate_kwargs={{'{generating[0]}': ...}}",
            stacklevel=3,
        )
    return for_template, {name: value for name, value in rest.items() if name not in generating}


def how_stills_are_read(config: VideoXLConfig) -> dict[str, Any]:
    """What a processor must know of a model to read images: whether in crops, which, and as how many tokens."""
    return {
        "crops": config.traits.vision.stills == "crops",
        "aspect_ratio": config.stills,
        "pinpoints": config.image_grid_pinpoints,
        "merge": config.patch_merge_type,
        "tokens": config.token_grid**2,
        "merged_tokens": (config.token_grid // 2) ** 2,
        "token_id": config.image_token_id,
    }


def pixel_inputs(pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
    """The model's arguments for pictures in the order of their places: videos, and images in crops."""
    data: dict[str, torch.Tensor] = {}
    videos = [picture.pixels_NCHW for picture in pictures if picture.times]
    images = [picture.pixels_NCHW for picture in pictures if not picture.times]
    if videos:
        data["pixel_values_videos"] = torch.cat(videos)
        data["frames_per_video"] = torch.tensor([len(frames) for frames in videos])
    if images:
        data["pixel_values"] = torch.cat(images)
        data["crops_per_image"] = torch.tensor([len(crops) for crops in images])
    return data


def _is_batch(conversation: object) -> bool:
    """Whether it is a list of conversations rather than one."""
    if not isinstance(conversation, (list, tuple)) or not conversation:
        return False
    return isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")


def _are_of_prompts(nested: Sequence[Sequence[object]], counts: Sequence[int]) -> bool:
    """Whether lists are the videos of prompts, rather than each a video of pictures."""
    media = [isinstance(item, Media) for of_one in nested for item in of_one]
    return [len(of_one) for of_one in nested] == list(counts) or all(media)
