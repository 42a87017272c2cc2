"""The released models at true size, 96 frames: kernels, waits, launches and peaks within their budgets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.simulated_gpu.counts import Counts
from tests.simulated_gpu.cuda import simulated
from tests.simulated_gpu.device import SimulatedDevices
from tests.simulated_gpu.true_size import true_size_engine
from videoxl.inference.engine import VideoXL
from videoxl.memory.video_memory import VideoMemory

FRAMES = 96
READINGS = [
    ("video-xl", "beacon:ratio=8"),
    ("video-xl-pro", "full"),
    ("video-xl-2", "full"),
    ("video-xl-2", "chunked"),
    ("video-xl-2", "chunked:offload=true"),
]
LAUNCHES_PER_TILE = {"full": 1_700, "chunked": 2_900, "beacon:ratio=8": 28_000, "chunked:offload=true": 2_900}
LAUNCHES_PER_TOKEN = 930
AT_LOADING = 1
"""Waits once per model: the frequencies of its rotary embedding are uploaded."""


def frames(engine: VideoXL, count: int) -> list[np.ndarray]:
    side = engine.config.vision_config.image_size
    return [np.zeros((side, side, 3), np.uint8)] * count


@pytest.fixture(scope="module", params=READINGS, ids=[f"{family}-{prefill}" for family, prefill in READINGS])
def reading(request: Any) -> Iterator[tuple[SimulatedDevices, VideoXL, str, Counts, VideoMemory, float]]:
    """A model that has read 96 frames once before: what is counted is the second reading."""
    family, prefill = request.param
    layers = 4 if family == "video-xl" else None  # 28 layers of windows take long to simulate
    with simulated() as devices:
        engine = true_size_engine(family, devices, layers=layers)
        engine.encode(frames=frames(engine, 8), fps=1, prefill=prefill)
        with devices.counting() as counts:
            memory = engine.encode(frames=frames(engine, FRAMES), fps=1, prefill=prefill)
            peak = devices.peak[0]
        yield devices, engine, prefill, counts, memory, peak


def test_no_kernel_is_the_slow_one(reading: Any) -> None:
    _, _, _, counts, _, _ = reading
    assert not [kind for kind in counts.attention_kinds() if "math" in kind]


def test_cudnn_sees_only_the_vision_tower(reading: Any) -> None:
    _, _, _, counts, _, _ = reading
    assert {where.split(":")[0] for kind, where in counts.attention if "cudnn" in kind} <= {"model/vision.py"}


def test_masked_attention_is_next_to_nothing(reading: Any) -> None:
    _, _, _, counts, _, _ = reading
    assert counts.attention_flops("masked") <= 0.02 * counts.attention_flops()


def test_nothing_waits_for_the_device_in_a_tile(reading: Any) -> None:
    _, _, prefill, counts, _, _ = reading
    if "offload" in prefill:
        pytest.skip("offloading still waits when host memory is pinned")
    assert [why for why, _ in counts.synchronisations] == ["event"]  # the clock is read once, at the end
    assert not [kind for kind, _ in counts.copies if kind == "to device"]


def test_launches_per_tile(reading: Any) -> None:
    _, _, prefill, counts, _, _ = reading
    assert counts.kernels <= LAUNCHES_PER_TILE[prefill]


def test_an_answer_waits_once_a_token(reading: Any) -> None:
    devices, engine, _, _, memory, _ = reading
    engine.ask(memory, "What is shown?", max_new_tokens=2)
    with devices.counting() as one:
        engine.ask(memory, "What is shown?", max_new_tokens=1)
    with devices.counting() as five:
        engine.ask(memory, "What is shown?", max_new_tokens=5)
    layers = engine.config.text.num_hidden_layers
    assert (five.kernels - one.kernels) / 4 <= LAUNCHES_PER_TOKEN * layers / 28
    assert five.waits - one.waits <= 4
    assert five.attention_kinds() == {"flash varlen"}
