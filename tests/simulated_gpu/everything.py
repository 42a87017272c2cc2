"""Whatever can be done with a memory, one thing after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.memory.video_memory import VideoMemory

QUESTION = "What is shown?"
Film = Sequence[np.ndarray]


def decodes_of(engine: VideoXL) -> tuple[str, ...]:
    """The ways of decoding that a family has."""
    return ("dense", "bilevel:top_k=1,block_size=1") if engine.config.traits.two_levels else ("dense",)


def everything(
    engine: VideoXL, memory: VideoMemory, more: Film, folder: Path, *, valued: bool = True
) -> dict[str, Any]:
    """Ask in every way, save, load, extend by ``more`` and trim; all texts, by what was done.

    ``valued``: whether numbers have values; beams are compared by them.
    """

    def text(of: VideoMemory, tokens: int = 3, **settings: Any) -> str:
        return engine.ask(of, QUESTION, max_new_tokens=tokens, **settings).text

    found: dict[str, Any] = {decode: text(memory, 6, decode=decode) for decode in decodes_of(engine)}
    found["sampled"] = text(memory, do_sample=True, seed=1, repetition_penalty=1.2)
    if valued:
        found["beams"] = text(memory, num_beams=2)
    found["together"] = [answer.text for answer in engine.ask(memory, [QUESTION, "Who?"], max_new_tokens=3)]
    found["stream"] = "".join(piece.text for piece in engine.stream(memory, QUESTION, max_new_tokens=3))
    chat = engine.chat_session(memory)
    found["chat"] = [chat.ask(question, max_new_tokens=3).text for question in ("A?", "And B?")]
    memory.save(folder / "memory.vxl")
    loaded = VideoMemory.load(folder / "memory.vxl", engine)
    found["from file"] = text(loaded)
    found["changed from file"] = _changed(engine, loaded, more, text)
    return {**found, **_changed(engine, memory, more, text)}


def _changed(engine: VideoXL, memory: VideoMemory, more: Film, text: Any) -> dict[str, Any]:
    """Answers about a memory that was extended, then trimmed, where its prefill allows that."""
    strategy, found = choose_prefill(memory.prefill, engine.config), {}
    support = engine.config.traits.support(strategy)
    memory = memory.fork()
    if support.refuse_extend(strategy) is None:
        memory.extend(more, fps=1)
        found["extended"] = text(memory)
    if support.refuse_trim(strategy) is None:
        memory.trim(start=8)
        found["trimmed"] = text(memory)
    return found
