"""``model.generate(...)`` of the released quick starts, as a thin layer over the engine's parts.

Scripts call ``model.generate(input_ids, images=[video], modalities=["video"], ...)``: for Video-XL with
``beacon_skip_first=``, for Video-XL-2 and Video-XL-Pro with ``time_embedding=``. The released model of Video-XL keeps
its last video; this one keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria
from transformers.generation import BaseStreamer

from videoxl.config import BeaconPrefill, ChunkedPrefill, FullPrefill, PrefillStrategy, SelectivePrefill
from videoxl.inference.decode.loop import Stop, decode_tokens
from videoxl.inference.prefill.beacon import BeaconPrefiller
from videoxl.inference.prefill.choose import choose_prefill, frames_per_tile
from videoxl.inference.prefill.chunked import chunked_prefiller
from videoxl.inference.prefill.full import FullPrefiller
from videoxl.inference.prefill.prefiller import Prefiller
from videoxl.inference.prefill.read import PrefillRunner
from videoxl.inference.prefill.selective import SelectivePrefiller
from videoxl.inference.prefill.tiles import Tile
from videoxl.inference.prompt import IMAGE_TOKEN_INDEX, VisualSpan
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import Group
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.generation import AsGiven
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.released.chat import released_prefill
from videoxl.released.generation import ReleasedSettings, generate_from_cache, released_settings
from videoxl.released.time_embedding import GivenSpans, spans_of_video

MODALITIES = ("video", "image")


@dataclass(frozen=True)
class Prompt:
    """A released prompt taken apart at its placeholder."""

    prefix: list[int]
    suffix: list[int]

    @classmethod
    def parse(cls, input_ids: object) -> Prompt:
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


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt of which head and pictures are in a cache."""

    cache: KVCache
    ids: list[int]
    """Those of the cache, then the text behind the pictures."""
    tokens: int
    """Length of the prompt with all of its visual tokens."""
    returned: list[int]
    """The prompt at the head of what ``generate`` returns."""


def generate_from_images(
    model: VideoXLForConditionalGeneration,
    input_ids: torch.Tensor,
    images: Sequence[torch.Tensor] | torch.Tensor,
    *,
    modalities: Sequence[str] = ("image",),
    time_embedding: Sequence[torch.Tensor | None] | None = None,
    beacon_skip_first: int | None = None,
    beacon_skip_last: int | None = None,
    block_size_chosed: int | None = None,
    prev_blocks_num: int | None = None,
    attention_mask: torch.Tensor | None = None,
    image_sizes: object = None,
    stopping_criteria: Sequence[StoppingCriteria] = (),
    streamer: BaseStreamer | None = None,
    generation_config: GenerationConfig | None = None,
    **settings: object,
) -> Any:
    """Answer a prompt about one video, or about one still image given as crops.

    Args:
        input_ids: ``[1, L]`` with -200 once.
        images: one tensor, ``[F, 3, S, S]``: the frames, or the crops with the whole picture first.
        modalities: ``["video"]`` or ``["image"]``.
        time_embedding: for a video of Video-XL-2 or Video-XL-Pro: one tensor of ids, the timestamp of every group of
            frames and its placeholders in turn, as ``process_video`` makes it.
        beacon_skip_first, beacon_skip_last: where Video-XL's visual tokens begin and end; checked when given.
        block_size_chosed, prev_blocks_num: chunked prefill of Video-XL-2, instead of what ``model.config`` says.
        image_sizes: has no effect: the order of crops does not depend on sizes.
        stopping_criteria: they see the prompt as it was given and the tokens written so far.
        generation_config, settings: any setting of transformers' ``GenerationConfig``. Sampling is seeded with
            ``seed=`` (0): it neither reads nor changes torch's global random state.

    Returns int64 ``[1, new]``; of Video-XL ``[1, L - 1 + N + new]``: the prompt with N visual tokens in place of -200,
    then the answer. Every call starts afresh. Raises ``ValueError`` for a prompt, picture or setting that cannot be.
    """
    config, prompt = model.config, Prompt.parse(input_ids)
    stored = {} if generation_config is None else generation_config.to_diff_dict()
    stored.pop("transformers_version", None)
    chosen = released_settings({**stored, **settings})
    if attention_mask is not None and not bool(attention_mask.bool().all()):
        raise ValueError("attention_mask hides parts of the prompt: one prompt needs no padding, leave it out")
    video, pixels = _is_video(modalities), _only(images)
    _check_pixels(pixels, config.image_size)
    if config.has_beacons:
        _refuse_for_beacons(time_embedding=time_embedding, block_size=block_size_chosed, previous=prev_blocks_num)
        read = _read_into_beacons(model, prompt, pixels, video, (beacon_skip_first, beacon_skip_last))
    else:
        strategy = _strategy(config, block_size_chosed, prev_blocks_num)
        spans = spans_of_video(time_embedding, config, len(pixels)) if video else None
        if not video and isinstance(strategy, SelectivePrefill):
            strategy = FullPrefill()  # tokens are scored by timestamps, and a still image has none
        read = _read_groups(model, prompt, pixels, strategy, spans)
    return write(model, input_ids, read, chosen, stopping_criteria, streamer)


def _refuse_for_beacons(**given: object) -> None:
    if names := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"Video-XL has neither timestamps nor blocks: leave {', '.join(names)} out")


# ------------------------------------------------------------------------------------------------------------ reading


@torch.inference_mode()
def _read_into_beacons(
    model: VideoXLForConditionalGeneration,
    prompt: Prompt,
    pixels: torch.Tensor,
    video: bool,
    skips: tuple[int | None, int | None],
) -> ReadPrompt:
    config, strategy = model.config, prefill_from(model.config)
    visual_tokens = len(pixels) * config.tokens_per_group if video else config.image_tokens(len(pixels))
    prompt.check_skips(*skips, visual_tokens)
    tokens = len(prompt.prefix) + visual_tokens + len(prompt.suffix)
    prefiller = BeaconPrefiller(model, prompt.prefix, strategy, visual_tokens=visual_tokens, total=tokens)
    if video:
        tiles = _tiles(pixels, frames_per_tile(strategy, config))
        PrefillRunner(model, lambda text: []).run(prompt.prefix, tiles, prefiller=prefiller)
    else:
        _read_still(model, prefiller, pixels)
    returned = [*prompt.prefix, *[config.vocab_size - 1] * visual_tokens, *prompt.suffix]
    return ReadPrompt(prefiller.cache, [*prefiller.ids, *prompt.suffix], tokens, returned)


@torch.inference_mode()
def _read_groups(
    model: VideoXLForConditionalGeneration,
    prompt: Prompt,
    pixels: torch.Tensor,
    strategy: PrefillStrategy,
    spans: GivenSpans | None,
) -> ReadPrompt:
    """``spans``: of a video; None for a still image."""
    prefiller = _prefiller(model, prompt, strategy)
    if spans is not None:
        tiles = _tiles(pixels, frames_per_tile(strategy, model.config))
        _SpanRunner(model, spans).run(prompt.prefix, tiles, prefiller=prefiller)
        visual = len(spans.of(0, spans.groups).ids)
    else:
        visual = _read_still(model, prefiller, pixels)
    tokens = len(prompt.prefix) + visual + len(prompt.suffix)
    return ReadPrompt(prefiller.cache, [*prefiller.ids, *prompt.suffix], tokens, [])


def _prefiller(model: VideoXLForConditionalGeneration, prompt: Prompt, strategy: PrefillStrategy) -> Prefiller:
    if isinstance(strategy, SelectivePrefill):
        return SelectivePrefiller(model, prompt.prefix, strategy, text_ids=[*prompt.prefix, *prompt.suffix])
    if isinstance(strategy, ChunkedPrefill):
        return chunked_prefiller(model, prompt.prefix, strategy)
    return FullPrefiller(model, prompt.prefix)


def _read_still(model: VideoXLForConditionalGeneration, prefiller: Prefiller, crops: torch.Tensor) -> int:
    """Read one still image; returns the number of its visual tokens."""
    base = model.model
    tokens_PD = base.encode_image(crops.to(base.vision_device, base.vision_dtype))
    ids = (model.config.video_token_id,) * len(tokens_PD)
    prefiller.add(VisualSpan(ids, (Group(0.0, 0.0, 0, 0, len(ids)),), (0,)), tokens_PD)
    prefiller.finish()
    return len(ids)


class _SpanRunner(PrefillRunner):
    """Lays groups out as a script did. The times of its tiles are frame numbers."""

    def __init__(self, model: VideoXLForConditionalGeneration, spans: GivenSpans) -> None:
        super().__init__(model, lambda text: [])
        self.spans = spans

    def span_of(self, timestamps: Sequence[float], *, before: float | None = None) -> VisualSpan:
        per_group = self.model.config.frames_per_group
        return self.spans.of(int(timestamps[0]) // per_group, int(timestamps[-1]) // per_group + 1)


def _tiles(pixels_FCHW: torch.Tensor, size: int) -> Iterator[Tile]:
    """Cut tiles as the engine does, so that answers are the engine's bit for bit. Their times are frame numbers."""
    for number, part in enumerate(pixels_FCHW.split(size)):
        yield Tile(part, tuple(float(number * size + i) for i in range(len(part))))


def _strategy(config: VideoXLConfig, block_size: int | None, previous_blocks: int | None) -> PrefillStrategy:
    if (block_size is None) != (previous_blocks is None):
        raise ValueError("block_size_chosed and prev_blocks_num belong together: give both or none")
    if block_size is not None and previous_blocks is not None:
        return choose_prefill(ChunkedPrefill.from_blocks(block_size, previous_blocks), config)
    return choose_prefill(released_prefill(config), config)


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
    if not bool(torch.isfinite(pixels).all()):
        raise ValueError("pixels hold values that are not finite: look at what came before image_processor.preprocess")


# ------------------------------------------------------------------------------------------------------------ writing


def write(
    model: VideoXLForConditionalGeneration,
    input_ids: torch.Tensor,
    read: ReadPrompt,
    settings: ReleasedSettings,
    criteria: Sequence[StoppingCriteria],
    streamer: BaseStreamer | None,
) -> Any:
    """Write the answer: ids behind ``read.returned``, or transformers' output with such sequences."""
    ends, head = _end_ids(model), input_ids.new_tensor([read.returned])
    if settings.own is not None:
        new = _write_ourselves(model, input_ids, read, settings, criteria, streamer)
        return torch.cat([head, input_ids.new_tensor([new])], dim=1)
    out = generate_from_cache(
        model,
        input_ids,
        read.ids,
        read.cache,
        settings,
        prompt_tokens=read.tokens,
        end_ids=ends,
        **{name: value for name, value in (("stopping_criteria", list(criteria)), ("streamer", streamer)) if value},
    )
    plain = isinstance(out, torch.Tensor)
    sequences = out if plain else out.sequences
    new_BL = sequences[:, input_ids.shape[1] :].to(head.device)
    whole = torch.cat([head.long().expand(len(new_BL), -1), new_BL], dim=1)
    if plain:
        return whole
    out.sequences = whole
    return out


def _write_ourselves(
    model: VideoXLForConditionalGeneration,
    input_ids: torch.Tensor,
    read: ReadPrompt,
    settings: ReleasedSettings,
    criteria: Sequence[StoppingCriteria],
    streamer: BaseStreamer | None,
) -> list[int]:
    """The answer's ids. A streamer gets the prompt, then every token, as transformers gives them."""
    own = settings.own
    assert own is not None
    if own.stop:
        raise ValueError("stop needs a tokenizer, which generate does not have: use stop_strings= and tokenizer=")
    if streamer is not None:
        streamer.put(torch.tensor([read.ids]))
    new = []
    stop = _given(criteria, input_ids)
    for token in decode_tokens(model, read.ids, read.cache, own, end_ids=_end_ids(model), stop=stop):
        new.append(token.id)
        if streamer is not None:
            streamer.put(torch.tensor([token.id]))
    if streamer is not None:
        streamer.end()
    return new


def _end_ids(model: VideoXLForConditionalGeneration) -> list[int]:
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _given(criteria: Sequence[StoppingCriteria], prompt_BL: torch.Tensor) -> Stop | None:
    """A caller's criteria as the loop asks them: they see the prompt as it was given, not as it is compressed."""
    if not criteria:
        return None
    as_given = [AsGiven(criterion, prompt_BL, 0) for criterion in criteria]

    def stop(new_ids: list[int]) -> bool:
        seen: Any = prompt_BL.new_tensor([new_ids])
        scores: Any = torch.empty((1, 0), device=prompt_BL.device)
        return any(bool(criterion(seen, scores).all()) for criterion in as_given)

    return stop
