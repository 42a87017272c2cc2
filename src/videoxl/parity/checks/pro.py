"""Check of Video-XL-Pro: from pixels to tokens with selective prefill, with the share kept as recorded."""

from __future__ import annotations

from typing import Any

import torch

from videoxl.config import SelectivePrefill
from videoxl.inference.prefill.read import PrefillRunner
from videoxl.inference.prefill.selective import SelectivePrefiller
from videoxl.inference.prefill.tiles import GROUPS_PER_TILE
from videoxl.inference.prompt import IMAGE_TOKEN_INDEX, span_for, time_text
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.parity.golden import Case
from videoxl.parity.runs import compare_generated, text_tokenizer, tiles


class _Recording(SelectivePrefiller):
    """Keeps what the language model was given, the prefix included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.embeddings: list[torch.Tensor] = []

    def _read(self, ids: list[int], embeds_LD: torch.Tensor) -> None:
        self.embeddings.append(embeds_LD)
        super()._read(ids, embeds_LD)


def end_to_end(case: Case, model: VideoXLForConditionalGeneration) -> None:
    """Check the layout of the visual span, the embeddings that are kept of it, and the answer."""
    prompt, times, group = case.expected("prompt_ids").tolist(), case.spec["timestamps"], model.config.frames_per_group
    at = prompt.index(IMAGE_TOKEN_INDEX)
    case.compare_equal("image_at", at, case.spec["image_at"])
    tokenize = text_tokenizer(case.needs_model()["special_ids"])
    texts = [time_text(t, model.config.time_format) for t in times[::group]]
    case.compare_equal("group_texts", texts, case.spec["group_texts"])
    case.compare("time_embedding", span_for(model.config, times, tokenize).ids)

    prefix, suffix = prompt[:at], prompt[at + 1 :]
    keep = case.spec["drop_rate"]  # recorded under this name, it is the share kept
    prefiller = _Recording(model, prefix, SelectivePrefill(keep=keep), text_ids=prefix + suffix)
    parts = tiles(torch.from_numpy(case.pixels()), times, GROUPS_PER_TILE * group)
    filled = PrefillRunner(model, tokenize).run(prefix, parts, prefiller=prefiller)
    spliced = torch.cat(prefiller.embeddings)[len(prefix) :]
    case.compare_equal("n_spliced", len(spliced), case.spec["n_spliced"])
    case.compare("spliced_embeddings", spliced)
    compare_generated(case, model, [*filled.token_ids, *suffix], filled.cache)
