"""Beam search: transformers' ``generate`` on a filled cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from videoxl.config import Generation
from videoxl.errors import DoesNotFitError
from videoxl.memory.generation_cache import GenerationCache
from videoxl.memory.kv_cache import KVCache
from videoxl.model.generation import CACHE, within_vocabulary
from videoxl.model.videoxl import VideoXLForConditionalGeneration


@torch.inference_mode()
def beam_search(
    model: VideoXLForConditionalGeneration,
    ids: Sequence[int],
    cache: KVCache,
    settings: Generation,
    *,
    end_ids: Sequence[int] = (),
) -> list[int]:
    """New token ids after ``ids``, the first ``len(cache)`` of which are in ``cache``; it is used up.

    Raises :class:`DoesNotFitError` when the GPU's memory is full.
    """
    input_ids = within_vocabulary(
        torch.tensor([list(ids)], device=model.model.text_device), model.model.vocabulary_rows
    )
    stored = model.generation_config
    how = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens or None,
        num_beams=settings.num_beams,
        do_sample=False,
        repetition_penalty=settings.repetition_penalty or 1.0,
        eos_token_id=list(end_ids) or None,
        pad_token_id=end_ids[0] if stored.pad_token_id is None and end_ids else stored.pad_token_id,
        bos_token_id=stored.bos_token_id,
        use_cache=True,
    )
    try:
        out = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=how,
            **{CACHE: GenerationCache(cache)},
        )
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(
            f"the GPU ran out of memory with {settings.num_beams} beams at a prompt of {len(ids):,} tokens; the memory "
            "is unharmed: use fewer beams"
        ) from error
    new_ids: list[int] = out[0, len(ids) :].tolist()
    return new_ids
