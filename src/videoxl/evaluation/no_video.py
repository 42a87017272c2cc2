"""What a model answers without any video: the control that every benchmark of videos needs."""

from __future__ import annotations

from typing import Any

from videoxl.config import Generation
from videoxl.inference.decode.generate import generate
from videoxl.memory.kv_cache import KVCache


def answer_blind(engine: Any, question: str, *, max_new_tokens: int) -> str:
    """The answer to a question asked alone, in the same prompt but for the video.

    A right one was guessed, known from elsewhere, or told by the question itself. This is a control to be reported
    beside a score; nothing falls back on it.
    """
    ids = [*engine.chat_format.prefix(), *engine.chat_format.suffix(question)]
    settings = Generation(max_new_tokens=max_new_tokens)
    cache = KVCache(engine.config.text_config.num_hidden_layers, reserve=len(ids) + max_new_tokens)
    new_ids = generate(engine.model, ids, cache, settings, end_ids=engine.end_ids)
    return str(engine.tokenizer.decode(new_ids, skip_special_tokens=True).strip())
