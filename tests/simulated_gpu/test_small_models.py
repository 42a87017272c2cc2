"""The embedded models on a simulated device with real numbers: no device error, and the answers of a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import videoxl
from tests.simulated_gpu.card import H200, T4, Card
from tests.simulated_gpu.cuda import move, simulated
from tests.simulated_gpu.everything import everything
from tests.simulated_gpu.true_size import split_over_two
from videoxl.inference.engine import VideoXL

READINGS = [
    ("tiny", "chunked", H200),
    ("tiny", "chunked:offload=true", H200),
    ("tiny-v1", "beacon", H200),
    pytest.param("tiny", "full", H200, marks=pytest.mark.slow),
    pytest.param("tiny-v1", "full", H200, marks=pytest.mark.slow),
    pytest.param("tiny", "chunked", T4, marks=pytest.mark.slow),
]


def film(frames: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def models() -> dict[str, VideoXL]:
    return {name: videoxl.load(name, device="cpu") for name in ("tiny", "tiny-v1")}


@pytest.mark.parametrize(("name", "prefill", "card"), READINGS)
def test_answers_are_those_of_the_cpu(
    name: str, prefill: str, card: Card, models: dict[str, VideoXL], tmp_path: Path
) -> None:
    def all_of(engine: VideoXL) -> dict[str, object]:
        return everything(engine, engine.encode(frames=film(28, 0), fps=1, prefill=prefill), film(12, 1), tmp_path)

    expected = all_of(models[name])
    engine = videoxl.load(name, device="cpu")
    with simulated(card, real=True) as device:
        move(engine.model, device)
        assert all_of(engine) == expected


def test_a_model_that_lies_on_two_cards_answers_as_on_one(tmp_path: Path) -> None:
    def all_of(engine: VideoXL) -> dict[str, object]:
        return everything(engine, engine.encode(frames=film(28, 0), fps=1, prefill="chunked"), film(12, 1), tmp_path)

    engine = videoxl.load("tiny", device="cpu")
    head = nn.Parameter(engine.model.lm_head.weight.detach().clone())  # of its own: the embedding is on the other card
    engine.model.lm_head.weight = head
    expected = all_of(engine)
    with simulated(count=2, real=True) as devices:
        split_over_two(move(engine.model, devices))
        assert {device.index for device in engine.layer_devices} == {0, 1}
        assert engine.model.lm_head.weight.device == torch.device("cuda", 1)
        assert all_of(engine) == expected


def test_a_device_map_is_loaded_as_it_says() -> None:
    parts = ("vision_tower", "token_synthesis", "multi_modal_projector", "language_model")
    device_map = {**{f"model.{part}": 0 for part in parts[:3]}, "model.language_model": 1, "lm_head": 1}
    with simulated(count=2, real=True) as devices:
        engine = videoxl.load("tiny", device=device_map)
        assert min(devices.live) > 10**5
        memory = engine.encode(frames=film(8, 0), fps=1)
        assert engine.ask(memory, "What?", max_new_tokens=2).usage.new_tokens
