"""transformers' ``generate``, behind pictures that are read first and behind a prompt that another one stands in for.

A cache of beacons is shorter than the prompt it was made from, and placeholders of visual tokens may lie beyond the
vocabulary, where penalties look up scores. So ``generate`` works on a stand-in of the prompt. The caller sees the
prompt that was given: in lengths, in stopping criteria, and in the sequences that come back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.modeling_outputs import BaseModelOutputWithPast

from videoxl.model.attention import TokenCache
from videoxl.model.beacon import visual_range

PICTURE_INPUTS = ("pixel_values_videos", "frames_per_video", "pixel_values", "crops_per_image", "video_features")
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
"""What transformers calls the cache in outputs and arguments: ``past_key_values`` before version 5.24."""
LENGTHS = ("max_length", "min_length")
"""Settings that count the tokens of the prompt."""


def one_cache(cache: TokenCache | None, past_key_values: TokenCache | None) -> TokenCache | None:
    """The cache under whichever of its two names it was given. Raises ``ValueError`` for two."""
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one thing: give one of them")
    return past_key_values if cache is None else cache


def generate(model: Any, inputs: torch.Tensor | None, given: Mapping[str, Any]) -> Any:
    """What a model's ``generate(inputs, **given)`` does; its sequences begin with the ids that were given."""
    ids_BL = inputs if inputs is not None else given.get("input_ids")
    held = one_cache(given.get("cache"), given.get("past_key_values"))
    refuse_static_cache(given.get("generation_config"), given.get("cache_implementation"), held)
    if not isinstance(ids_BL, torch.Tensor) or ids_BL.is_floating_point() or given.get("inputs_embeds") is not None:
        return GenerationMixin.generate(model, inputs, **given)
    settings = {name: value for name, value in given.items() if name not in ("input_ids", *PICTURE_INPUTS)}
    pictures = {name: given.get(name) for name in PICTURE_INPUTS}
    if held is None and any(value is not None for value in pictures.values()):
        return generate_behind_pictures(model, ids_BL, pictures, settings)
    stand_in_BL = within_vocabulary(ids_BL, model.model.vocabulary_rows)
    if held is None or torch.equal(stand_in_BL, ids_BL):
        return GenerationMixin.generate(model, inputs, **given)
    return generate_behind(model, ids_BL, stand_in_BL, settings)


def generate_behind_pictures(
    model: Any, ids_BL: torch.Tensor, pictures: Mapping[str, torch.Tensor | None], settings: dict[str, Any]
) -> Any:
    """Read the pictures once, before beams and sequences part, and go on from there."""
    config, cache = model.config, DynamicCache()
    if bool(((ids_BL[:, -1] == config.video_token_id) | (ids_BL[:, -1] == config.image_token_id)).any()):
        raise ValueError("the prompt ends with a picture: put text behind it, such as the question")
    assistant = settings.get("assistant_model")
    if assistant is not None and assistant.config.model_type == config.model_type:
        raise ValueError(
            "an assistant_model is told ids alone and would not see the pictures: use prompt_lookup_num_tokens, or a "
            "language model without pictures"
        )
    if config.has_beacons:
        settings = {name: value for name, value in settings.items() if name != "attention_mask"}
        kept_BL = read_into_beacons(model, cache, ids_BL, pictures)
    else:
        read_prompts(model, cache, ids_BL, pictures, settings.get("attention_mask"))
        kept_BL = ids_BL
    stand_in_BL = within_vocabulary(kept_BL, model.model.vocabulary_rows)
    return generate_behind(model, ids_BL, stand_in_BL, settings, cache=cache)


def read_prompts(
    model: Any,
    cache: DynamicCache,
    ids_BL: torch.Tensor,
    pictures: Mapping[str, torch.Tensor | None],
    mask_BL: torch.Tensor | None,
) -> None:
    """Read all but the last token of prompts, which may be padded on the left."""
    mask_BL = torch.ones_like(ids_BL) if mask_BL is None else mask_BL
    positions_BL = (mask_BL.long().cumsum(-1) - 1).clamp(min=0)
    model.model(
        ids_BL[:, :-1],
        **pictures,
        attention_mask=mask_BL[:, :-1],
        position_ids=positions_BL[:, :-1],
        past_key_values=cache,
    )


def read_into_beacons(
    model: Any, cache: DynamicCache, ids_BL: torch.Tensor, pictures: Mapping[str, torch.Tensor | None]
) -> torch.Tensor:
    """Compress the pictures of one prompt; return ids for what the cache holds, and those of the text behind it."""
    if len(ids_BL) > 1:
        raise ValueError(f"Video-XL answers one prompt at a time, got a batch of {len(ids_BL)}")
    _, end = visual_range(ids_BL[0], model.config.video_token_id)
    model.forward_windows(ids_BL[:, :end], model.model.embed(ids_BL[:, :end], **pictures), cache=cache)
    return torch.cat([ids_BL[:, : cache.get_seq_length()], ids_BL[:, end:]], dim=1)


class AsGiven(StoppingCriteria):
    """Shows a stopping criterion the prompt as it was given."""

    def __init__(self, inner: StoppingCriteria, given_BL: torch.Tensor, stand_in_length: int) -> None:
        self.inner, self.given_BL, self.stand_in_length = inner, given_BL, stand_in_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        seen: Any = behind_given(self.given_BL, input_ids, self.stand_in_length)
        ended = torch.as_tensor(self.inner(seen, scores, **kwargs), device=input_ids.device)
        return ended.expand(len(input_ids))  # type: ignore[return-value]  # criteria may answer with one bool


def behind_given(given_BL: torch.Tensor, sequences_BL: torch.Tensor, stand_in_length: int) -> torch.Tensor:
    """Sequences with the prompts that were given in the place of their stand-ins."""
    rows = len(sequences_BL) // len(given_BL)
    given = given_BL.to(sequences_BL.device).repeat_interleave(rows, dim=0)
    return torch.cat([given, sequences_BL[:, stand_in_length:]], dim=1)


def generate_behind(
    model: Any,
    given_BL: torch.Tensor,
    stand_in_BL: torch.Tensor,
    settings: Mapping[str, Any],
    *,
    cache: Cache | None = None,
) -> Any:
    """Call ``generate`` for ``given``, with ``stand_in`` and what ``cache`` holds of it.

    ``settings`` are keywords of ``generate``. The result's sequences begin with ``given``. Raises ``ValueError`` where
    ``max_length`` leaves nothing for an answer.
    """
    config = copy.deepcopy(settings.get("generation_config")) or GenerationConfig()
    rest = config.update(**{name: value for name, value in settings.items() if name != "generation_config"})
    count_from_given(config, model.generation_config, given_BL.shape[1], stand_in_BL.shape[1])
    criteria: Iterable[StoppingCriteria] = rest.pop("stopping_criteria", None) or ()
    rest["stopping_criteria"] = StoppingCriteriaList(
        [AsGiven(criterion, given_BL, stand_in_BL.shape[1]) for criterion in criteria]
    )
    rest.setdefault("attention_mask", torch.ones_like(stand_in_BL))
    if cache is not None:
        refuse_other_cache(config)
        config.use_cache = True  # what the cache holds is in no other place
        rest[CACHE] = repeated(cache, config, model.generation_config)
    out = GenerationMixin.generate(model, input_ids=stand_in_BL, generation_config=config, **rest)
    if isinstance(out, torch.Tensor):
        return behind_given(given_BL, out, stand_in_BL.shape[1])
    out.sequences = behind_given(given_BL, out.sequences, stand_in_BL.shape[1])
    return out


def count_from_given(config: GenerationConfig, stored: GenerationConfig, given: int, stand_in: int) -> None:
    """Make lengths that count a prompt of ``given`` tokens count one of ``stand_in`` tokens."""
    for name in LENGTHS:
        asked = getattr(config, name) or getattr(stored, name)
        if not asked:
            continue
        if name == "max_length" and config.max_new_tokens is None and asked <= given:
            raise ValueError(
                f"max_length={asked} counts the prompt, which has {given:,} tokens: nothing is left for an answer; "
                "give max_new_tokens instead"
            )
        setattr(config, name, max(0, asked - given + stand_in))


def refuse_other_cache(config: GenerationConfig) -> None:
    """Raise ``ValueError`` for a ``cache_implementation``: the video is in a cache of ours already."""
    if config.cache_implementation not in (None, "dynamic"):
        raise ValueError(
            f"cache_implementation={config.cache_implementation!r} cannot hold a video that was read before the "
            "answer: leave it out"
        )


def refuse_static_cache(config: GenerationConfig | None, implementation: str | None, cache: object) -> None:
    """Raise ``ValueError`` for caches of a fixed length, which need masks that the language model does not take."""
    kind = implementation or getattr(config, "cache_implementation", None)
    if "static" in str(kind) or isinstance(cache, StaticCache):
        raise ValueError("a static cache is not supported: leave cache_implementation out, or use 'dynamic'")


def repeated(cache: Cache, config: GenerationConfig, stored: GenerationConfig) -> Cache:
    """The cache with as many rows as beams or sequences are asked for. A cache of ours grows rows by itself."""
    names = ("num_beams", "num_return_sequences")
    rows = max(getattr(config, name) or getattr(stored, name) or 1 for name in names)
    if rows > 1 and isinstance(cache, DynamicCache):
        cache.batch_repeat_interleave(rows)
    return cache


def within_vocabulary(ids_BL: torch.Tensor, rows: int) -> torch.Tensor:
    """The ids, with the first of each prompt in the place of placeholders beyond the vocabulary.

    A penalty looks up the score of every id that it sees. The first one stands in the prompt anyway.
    """
    return torch.where(ids_BL < rows, ids_BL, ids_BL[:, :1])


def check_ids(ids: Iterable[int], rows: int) -> None:
    """Raise ``ValueError`` for an id that a table of ``rows`` embeddings does not have."""
    for token_id in ids:
        if token_id < 0:
            raise ValueError(
                f"the prompt holds the id {token_id}, which no token has: '<image>' of released prompts (-200) goes "
                "with images=[...], which AutoModelForCausalLM and load_pretrained_model take"
            )
        if token_id >= rows:
            raise ValueError(
                f"the prompt holds the id {token_id:,}, and the model's vocabulary ends at {rows - 1:,}: the tokenizer "
                "and the model do not belong together"
            )
