"""The embedded models on a simulated device with real numbers: no device error, and the answers of a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import videoxl
from tests.simulated_gpu.card import H200, T4, Card
from tests.simulated_gpu.cuda import move, simulated
from videoxl.inference.engine import VideoXL
from videoxl.memory.video_memory import VideoMemory

PREFILLS = {
    "tiny": ("full", "chunked", "chunked:offload=true"),
    "tiny-v1": ("beacon", "full"),
}
DECODES = {"tiny": ("dense", "bilevel:top_k=1,block_size=1"), "tiny-v1": ("dense",)}


def film(frames: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8))


def everything(engine: VideoXL, name: str, prefill: str, folder: Path) -> dict[str, Any]:
    """Whatever can be done with a memory, by name."""

    def text(of: VideoMemory, tokens: int = 4, **settings: Any) -> str:
        return engine.ask(of, "What is shown?", max_new_tokens=tokens, **settings).text

    memory = engine.encode(frames=film(28, 0), fps=1, prefill=prefill)
    found: dict[str, Any] = {decode: text(memory, 8, decode=decode) for decode in DECODES[name]}
    found["sampled"] = text(memory, do_sample=True, seed=1)
    found["beams"] = text(memory, num_beams=2)
    found["stream"] = "".join(piece.text for piece in engine.stream(memory, "What is shown?", max_new_tokens=4))
    chat = engine.chat_session(memory)
    found["chat"] = [chat.ask(question, max_new_tokens=4).text for question in ("A?", "And B?")]
    memory.save(folder / "memory.vxl")
    found["from file"] = text(VideoMemory.load(folder / "memory.vxl", engine))
    memory.extend(film(12, 1), fps=1)
    found["extended"] = text(memory)
    if name == "tiny" and "offload" not in prefill:
        memory.trim(start=8)
        found["trimmed"] = text(memory)
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
