"""Log-probabilities of texts that are given, as the model would write them after a prompt.

The prompt is read once. What follows is one batch over the cache that then holds the prompt, a row for each text
(:mod:`videoxl.inference.decode.together`), so the weights are read twice, however many texts there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from videoxl.config import Generation
from videoxl.errors import DoesNotFitError
from videoxl.inference.decode.together import Batch, Prompt, TogetherPlan
from videoxl.memory.kv_cache import KVCache
from videoxl.model.generation import check_ids
from videoxl.model.upload import to_device
from videoxl.model.videoxl import VideoXLForConditionalGeneration

TEXTS_AT_ONCE = 32
PLACES_AT_ONCE = 256
"""Places whose scores over the whole vocabulary exist at one time."""
NOTHING = Generation(max_new_tokens=1)


@torch.inference_mode()
def log_probabilities(
    model: VideoXLForConditionalGeneration, ids: Sequence[int], cache: KVCache, texts: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Of every token of every text, its natural log-probability after ``ids`` and the tokens before it.

    ``cache`` holds the first ``len(cache)`` of ``ids``, and all of them afterwards. No text may be empty. Raises
    ``ValueError`` when nothing of ``ids`` is left to read, :class:`DoesNotFitError` when the GPU's memory is full.
    """
    if len(cache) >= len(ids):
        raise ValueError(f"the cache holds {len(cache):,} tokens and the prompt {len(ids):,}: nothing is left to read")
    device, rows = model.model.text_device, model.model.vocabulary_rows
    for one in (ids[len(cache) :], *texts):
        check_ids(one, rows)
    try:
        first_V = model.next_logits(to_device(torch.tensor([ids[len(cache) :]]), device), cache)[0].float()
        first_V = first_V.log_softmax(-1)
        found = [[value] for value in first_V[to_device(torch.tensor([text[0] for text in texts]), device)].tolist()]
        longer = [number for number, text in enumerate(texts) if len(text) > 1]
        for begin in range(0, len(longer), TEXTS_AT_ONCE):
            batch = longer[begin : begin + TEXTS_AT_ONCE]
            for number, rest in zip(batch, _rest(model, ids, cache, [texts[number] for number in batch])):
                found[number] += rest
    except torch.OutOfMemoryError as error:
        raise DoesNotFitError(
            f"the GPU ran out of memory with {len(texts)} texts behind a prompt of {len(ids):,} tokens; the memory is "
            "unharmed: give fewer or shorter ones"
        ) from error
    return found


def _rest(
    model: VideoXLForConditionalGeneration, ids: Sequence[int], cache: KVCache, texts: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Log-probabilities of all tokens but the first. ``cache`` holds ``ids``, and stays as it is."""
    batch = Batch(model, [Prompt([*ids, *text[:-1]], cache, NOTHING) for text in texts])
    feed_BL = batch.first_tokens()
    language_model = model.model.language_model
    hidden_BLD = language_model.run_plan(
        model.get_input_embeddings()(feed_BL), TogetherPlan(language_model, batch, feed_BL.shape[1])
    )
    texts_hidden = [row[-(len(text) - 1) :] for row, text in zip(hidden_BLD, texts)]  # padding stands in front
    wanted = torch.tensor([token for text in texts for token in text[1:]], dtype=torch.long)
    flat = _of_tokens(model, torch.cat(texts_hidden), to_device(wanted, hidden_BLD.device)).tolist()
    found, at = [], 0
    for text in texts:
        found.append(flat[at : at + len(text) - 1])
        at += len(text) - 1
    return found


def _of_tokens(model: VideoXLForConditionalGeneration, hidden_PD: torch.Tensor, tokens_P: torch.Tensor) -> torch.Tensor:
    """Log-probabilities ``[P]`` of tokens behind hidden states."""
    parts = []
    for hidden, tokens in zip(hidden_PD.split(PLACES_AT_ONCE), tokens_P.split(PLACES_AT_ONCE)):
        logits_PV = model.lm_head(hidden).float()
        tokens = tokens.to(logits_PV.device)
        parts.append(logits_PV.gather(-1, tokens[:, None])[:, 0] - logits_PV.logsumexp(-1))
    return torch.cat(parts)
