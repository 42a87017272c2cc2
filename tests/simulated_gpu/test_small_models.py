"""The embedded models on a simulated device with real numbers: no device error, and the answers of a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import videoxl
from tests.simulated_gpu.card import H200, T4, Card
from tests.simulated_gpu.cuda import move, simulated
from videoxl.inference.engine import VideoXL

PREFILLS = {
    "tiny": ("full", "chunked", "chunked:offload=true"),
    "tiny-v1": ("beacon", "full"),
}
DECODES = {"tiny": ("dense", "bilevel:top_k=1,block_size=1"), "tiny-v1": ("dense",)}


def film(frames: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8))


def everything(engine: VideoXL, name: str, prefill: str, folder: Path) -> dict[str, Any]:
    """Whatever can be done with a memory, by name."""
    found: dict[str, Any] = {}

    def note(what: str, do: Callable[[], Any]) -> None:
        found[what] = do()

    memory = engine.encode(frames=film(28, 0), fps=1, prefill=prefill)
    for decode in DECODES[name]:
        note(f"ask {decode}", lambda: engine.ask(memory, "What is shown?", decode=decode, max_new_tokens=8).text)
    note("sampled", lambda: engine.ask(memory, "What?", max_new_tokens=4, do_sample=True, seed=1).text)
    note("beams", lambda: engine.ask(memory, "What?", max_new_tokens=4, num_beams=2).text)
    note("stream", lambda: "".join(p.text for p in engine.stream(memory, "What is shown?", max_new_tokens=4)))
    chat = engine.chat_session(memory)
    note("chat", lambda: [chat.ask(question, max_new_tokens=4).text for question in ("A?", "And B?")])
    memory.save(folder / "memory.vxl")
    kept = videoxl.VideoMemory.load(folder / "memory.vxl", engine)
    note("from file", lambda: engine.ask(kept, "What is shown?", max_new_tokens=4).text)
    memory.extend(film(12, 1), fps=1)
    note("extended", lambda: engine.ask(memory, "What is shown?", max_new_tokens=4).text)
    if name == "tiny" and "offload" not in prefill:
        memory.trim(start=8)
        note("trimmed", lambda: engine.ask(memory, "What is shown?", max_new_tokens=4).text)
    return found


@pytest.mark.parametrize(
    ("name", "prefill", "card"),
    [
        *((name, prefill, H200) for name, prefills in PREFILLS.items() for prefill in prefills),
        ("tiny", "chunked", T4),
    ],
)
def test_answers_are_those_of_the_cpu(name: str, prefill: str, card: Card, tmp_path: Path) -> None:
    expected = everything(videoxl.load(name, device="cpu"), name, prefill, tmp_path)
    engine = videoxl.load(name, device="cpu")
    with simulated(card, real=True) as device:
        move(engine.model, device)
        assert everything(engine, name, prefill, tmp_path) == expected
