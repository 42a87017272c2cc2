"""``model.generate(...)`` of the released Video-XL quick start, as a thin layer over the engine.

Scripts call ``model.generate(input_ids, images=[video], modalities=["video"], beacon_skip_first=...)`` and set the
ratio in ``model.config.beacon_ratio``. The released model keeps its last video; this one keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation import BaseStreamer

from videoxl.config import BeaconPrefill, Generation
from videoxl.inference.decode.beams import beam_search
from videoxl.inference.decode.loop import Stop, decode_tokens
from videoxl.inference.prefill.beacon import BeaconPrefiller
from videoxl.inference.prefill.choose import frames_per_tile
from videoxl.inference.prefill.read import PrefillRunner
from videoxl.inference.prefill.tiles import Tile
from videoxl.inference.prompt import IMAGE_TOKEN_INDEX, VisualSpan
from videoxl.memory.layout import Group
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.released.chat_v2 import released_generation

MODALITIES = ("video", "image")
WITHOUT_EFFECT = ("image_sizes", "pad_token_id")
"""Released keywords that change nothing: the order of crops does not depend on sizes, one prompt needs no padding."""


class NoMemory:
    """Takes the place of the released model's state of its last video. This model has none."""

    def reset(self) -> None:
        """Do nothing. Released scripts call it between videos."""


@dataclass(frozen=True)
class _Prompt:
    """A released prompt taken apart at its placeholder."""

    prefix: list[int]
    suffix: list[int]

    @classmethod
    def parse(cls, input_ids: object) -> _Prompt:
        """``input_ids`` ``[1, L]`` with one -200. Raises ``ValueError`` for anything else."""
        if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2 or len(input_ids) != 1:
            shape = list(input_ids.shape) if isinstance(input_ids, torch.Tensor) else type(input_ids).__name__
            raise ValueError(f"input_ids must be one prompt as a tensor [1, L], got {shape}: ask one prompt at a time")
        ids = input_ids[0].tolist()
        if (found := ids.count(IMAGE_TOKEN_INDEX)) != 1:
            raise ValueError(
                f"the prompt must hold '<image>' (id {IMAGE_TOKEN_INDEX}) exactly once, found {found}: build it with "
                "tokenizer_image_token, and give several pictures as the frames of one video"
            )
        at = ids.index(IMAGE_TOKEN_INDEX)
        prompt = cls(ids[:at], ids[at + 1 :])
        if not prompt.prefix or not prompt.suffix:
            raise ValueError("the prompt needs text before and after '<image>'")
        return prompt

    def check_skips(self, first: int | None, last: int | None, visual_tokens: int) -> None:
        """Raise ``ValueError`` where given skip positions are not those of the visual tokens."""
        begin, end = len(self.prefix), len(self.prefix) + visual_tokens
        for name, given, right in (("beacon_skip_first", first, begin), ("beacon_skip_last", last, end)):
            if given is not None and given != right:
                raise ValueError(
                    f"{name}={given} does not fit the prompt, whose {visual_tokens} visual tokens take the places "
                    f"{begin} to {end}: give {right}, or leave it out"
                )


class VideoXLBeaconForCausalLM(VideoXLForConditionalGeneration):
    """What ``load_pretrained_model`` returns: the model with the released ``generate``."""

    @property
    def memory(self) -> NoMemory:
        """Lets ``model.memory.reset()`` of released scripts run."""
        return NoMemory()

    def generate(self, inputs: Any = None, *args: Any, images: Any = None, **kwargs: Any) -> Any:
        """With ``images``: the released call, :meth:`generate_from_images`. Without: transformers' own."""
        given = kwargs.get("input_ids", inputs)
        if images is not None:
            return self.generate_from_images(given, images, **{k: v for k, v in kwargs.items() if k != "input_ids"})
        if isinstance(given, torch.Tensor) and bool((given == IMAGE_TOKEN_INDEX).any()):
            raise ValueError(f"the prompt holds '<image>' (id {IMAGE_TOKEN_INDEX}) but there are no images=[...]")
        return super().generate(inputs, *args, **kwargs)

    def generate_from_images(
        self,
        input_ids: torch.Tensor,
        images: Sequence[torch.Tensor] | torch.Tensor,
        *,
        modalities: Sequence[str] = ("image",),
        beacon_skip_first: int | None = None,
        beacon_skip_last: int | None = None,
        attention_mask: torch.Tensor | None = None,
        stopping_criteria: Sequence[StoppingCriteria] = (),
        streamer: BaseStreamer | None = None,
        **settings: object,
    ) -> torch.Tensor:
        """Answer a prompt about one video, or about one still image given as crops.

        Args:
            input_ids: ``[1, L]`` with -200 once.
            images: one tensor, ``[F, 3, S, S]``: the frames, or the crops with the whole picture first.
            modalities: ``["video"]`` or ``["image"]``.
            beacon_skip_first, beacon_skip_last: where the visual tokens begin and end; checked when given.
            stopping_criteria: they see the prompt as it was given and the tokens written so far.
            settings: those of :class:`Generation`, and ``use_cache``. Sampling draws from its own generator, seeded
                with ``seed=`` (0): it neither reads nor changes torch's global one.

        Returns int64 ``[1, L - 1 + N + new]``: the prompt with N visual tokens in place of -200, then the answer.
        Every call starts afresh. Raises ``ValueError`` for a prompt, picture or setting that cannot be.
        """
        prompt, strategy = _Prompt.parse(input_ids), prefill_from(self.config)
        chosen = released_generation({k: v for k, v in settings.items() if k not in WITHOUT_EFFECT})
        if attention_mask is not None and not bool(attention_mask.bool().all()):
            raise ValueError("attention_mask hides parts of the prompt: one prompt needs no padding, leave it out")
        video, pixels = _is_video(modalities), _only(images)
        _check_pixels(pixels, self.config.image_size)
        visual_tokens = _visual_tokens(self.config, len(pixels), video)
        prompt.check_skips(beacon_skip_first, beacon_skip_last, visual_tokens)
        total = len(prompt.prefix) + visual_tokens + len(prompt.suffix)
        prefiller = BeaconPrefiller(self, prompt.prefix, strategy, visual_tokens=visual_tokens, total=total)
        _read(self, prompt.prefix, prefiller, pixels, frames_per_tile(strategy, self.config) if video else None)
        new = self._write(
            [*prefiller.ids, *prompt.suffix], prefiller, chosen, _given(stopping_criteria, input_ids), streamer
        )
        placeholders = [self.config.vocab_size - 1] * visual_tokens
        return input_ids.new_tensor([[*prompt.prefix, *placeholders, *prompt.suffix, *new]])

    def _write(
        self,
        ids: list[int],
        prefiller: BeaconPrefiller,
        settings: Generation,
        stop: Stop | None,
        streamer: BaseStreamer | None,
    ) -> list[int]:
        """The answer's ids. A streamer gets the prompt, then every token, as transformers gives them."""
        ends = _end_ids(self)
        if settings.num_beams > 1:
            if streamer is not None or stop is not None:
                raise ValueError(f"num_beams={settings.num_beams} goes with no streamer and no stopping_criteria")
            return beam_search(self, ids, prefiller.cache, settings, end_ids=ends)
        if streamer is not None:
            streamer.put(torch.tensor([ids]))
        new = []
        for token in decode_tokens(self, ids, prefiller.cache, settings, end_ids=ends, stop=stop):
            new.append(token.id)
            if streamer is not None:
                streamer.put(torch.tensor([token.id]))
        if streamer is not None:
            streamer.end()
        return new


def prefill_from(config: VideoXLConfig) -> BeaconPrefill:
    """What ``model.config.beacon_ratio`` asks for at this moment. Raises ``ValueError`` for what is no ratio."""
    ratio = config.beacon_ratio
    given = [ratio] if isinstance(ratio, int) else ratio
    if not isinstance(given, (list, tuple)) or not all(type(r) is int for r in given):
        raise ValueError(f"model.config.beacon_ratio must be a list of whole numbers such as [8], got {ratio!r}")
    return BeaconPrefill.from_released(given, config.beacon_ratio_mix)


def _is_video(modalities: str | Sequence[str]) -> bool:
    kinds = [modalities] if isinstance(modalities, str) else list(modalities)
    if len(kinds) != 1 or kinds[0] not in MODALITIES:
        raise ValueError(f"modalities must be ['video'] or ['image'], got {modalities!r}")
    return kinds[0] == "video"


def _only(images: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """The one video or image there may be: ``[F, 3, S, S]``; a lone picture gets its first dimension."""
    if len(images) != 1 or not isinstance(images[0], torch.Tensor):
        kinds = sorted({type(image).__name__ for image in images})
        raise ValueError(f"images must be a list of one tensor [F, 3, S, S], got {len(images)} of {', '.join(kinds)}")
    return images[0][None] if images[0].ndim == 3 else images[0]


def _check_pixels(pixels: torch.Tensor, side: int) -> None:
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side) or not len(pixels):
        raise ValueError(f"pixels must be [F, 3, {side}, {side}] with F >= 1, got {list(pixels.shape)}")
    if not pixels.is_floating_point():
        raise ValueError(f"pixels must be what image_processor.preprocess gives, floating point; got {pixels.dtype}")


def _visual_tokens(config: VideoXLConfig, pictures: int, video: bool) -> int:
    """How many visual tokens frames, or the crops of a still image, become (SPEC 2.1)."""
    return pictures * config.tokens_per_group if video else config.image_tokens(pictures)


@torch.inference_mode()
def _read(
    model: VideoXLForConditionalGeneration,
    prefix: list[int],
    prefiller: BeaconPrefiller,
    pixels: torch.Tensor,
    tile: int | None,
) -> None:
    """Read the head of the prompt and a video, ``tile`` frames at a time, or a still image."""
    if tile is not None:
        PrefillRunner(model, lambda text: []).run(prefix, _tiles(pixels, tile), prefiller=prefiller)
        return
    base = model.model
    tokens_PD = base.encode_image(pixels.to(base.vision_device, base.vision_dtype))
    ids = (model.config.image_token_id,) * len(tokens_PD)
    prefiller.add(VisualSpan(ids, (Group(0.0, 0.0, 0, 0, len(ids)),)), tokens_PD)
    prefiller.finish()


def _tiles(pixels_FCHW: torch.Tensor, size: int) -> Iterator[Tile]:
    """Cut tiles as the engine does, so that answers are the engine's bit for bit. This model is told no times."""
    for number, part in enumerate(pixels_FCHW.split(size)):
        yield Tile(part, tuple(float(number * size + i) for i in range(len(part))))


def _end_ids(model: VideoXLForConditionalGeneration) -> list[int]:
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _given(criteria: Sequence[StoppingCriteria], prompt_BL: torch.Tensor) -> Stop | None:
    """A caller's criteria as the loop asks them: they see the prompt as it was given, not as it is compressed."""
    if not criteria:
        return None

    def stop(new_ids: list[int]) -> bool:
        seen = torch.cat([prompt_BL, prompt_BL.new_tensor([new_ids])], dim=1)
        scores = torch.empty((1, 0), device=prompt_BL.device)
        return any(bool(torch.as_tensor(criterion(seen, scores)).all()) for criterion in criteria)

    return stop
