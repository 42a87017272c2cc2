"""The baseline without video: what a model answers to a question alone. Every video benchmark needs it as a control."""

from __future__ import annotations

from videoxl.config import Generation
from videoxl.inference.decode.loop import decode_tokens
from videoxl.inference.engine import VideoXL
from videoxl.memory.kv_cache import KVCache


def answer_without_video(engine: VideoXL, question: str, *, max_new_tokens: int) -> str:
    """Answer a question alone, in the same prompt but for the video.

    A right answer was guessed, known from elsewhere, or told by the question itself. Report this baseline beside a
    score. No other code falls back on it.
    """
    ids = [*engine.chat_format.prefix(), *engine.chat_format.suffix(question)]
    settings = Generation(max_new_tokens=max_new_tokens)
    cache = KVCache(engine.config.get_text_config().num_hidden_layers, reserve=len(ids) + max_new_tokens)
    tokens = decode_tokens(engine.model, ids, cache, settings, end_ids=engine.end_ids)
    new_ids = [token.id for token in tokens]
    return str(engine.tokenizer.decode(new_ids, skip_special_tokens=True).strip())
