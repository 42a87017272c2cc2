"""The released models at true width, a few layers of them, 96 frames: kernels, waits, launches and peaks."""

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
from videoxl.inference.plan.footprint import Sizes, footprint
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.inference.prompt import span_for
from videoxl.memory.video_memory import VideoMemory

FRAMES = 96
READINGS = [
    ("video-xl", "beacon:ratio=8"),
    ("video-xl-pro", "full"),
    ("video-xl-2", "full"),
    ("video-xl-2", "chunked"),
    ("video-xl-2", "chunked:offload=true"),
]
LAYERS = 4
"""Of the language model. Each does the same; all of them take minutes to simulate."""
VISION_LAUNCHES = 800
LAYER_LAUNCHES = {"full": 25, "chunked": 60, "beacon:ratio=8": 450, "chunked:offload=true": 60}
"""Per layer of the language model and tile of 96 frames."""
TOKEN_LAUNCHES = 23
"""Per layer and token of an answer."""
PLAN_TOLERANCE = 0.03


def frames(engine: VideoXL, count: int) -> list[np.ndarray]:
    side = engine.config.vision_config.image_size
    return [np.zeros((side, side, 3), np.uint8)] * count


@pytest.fixture(scope="module", params=READINGS, ids=[f"{family}-{prefill}" for family, prefill in READINGS])
def reading(request: Any) -> Iterator[tuple[SimulatedDevices, VideoXL, str, Counts, VideoMemory, float]]:
    """A model that has read 96 frames once before: what is counted is the second reading."""
    family, prefill = request.param
    with simulated() as devices:
        engine = true_size_engine(family, devices, layers=LAYERS)
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
    waits = [(why, where) for why, where in counts.synchronisations if "host_cache" not in where]
    assert [why for why, _ in waits] == ["event"]  # the clock is read once, at the end
    assert "offload" in prefill or len(counts.synchronisations) == 1  # new pinned memory is waited for
    assert not [kind for kind, where in counts.copies if kind == "to device" and "host_cache" not in where]


def test_launches_per_tile(reading: Any) -> None:
    _, _, prefill, counts, _, _ = reading
    assert counts.kernels <= VISION_LAUNCHES + LAYERS * LAYER_LAUNCHES[prefill]


def test_the_plan_knows_the_peak(reading: Any) -> None:
    _, engine, prefill, _, memory, peak = reading
    strategy, prefix = choose_prefill(prefill, engine.config), len(engine.chat_format.prefix())
    span = span_for(engine.config, memory.timestamps, engine.chat_format.tokenize)
    sizes = Sizes.of(strategy, engine.config, FRAMES, prefix, span)
    weights = sum(p.numel() * p.element_size() for p in engine.model.parameters())
    planned = weights + footprint(engine.config, sizes, 256, 2, strategy).device
    assert abs(planned / peak - 1) <= PLAN_TOLERANCE
    assert planned >= peak  # never too little


def test_an_answer_waits_once_a_token(reading: Any) -> None:
    devices, engine, _, _, memory, _ = reading
    with devices.counting() as one:
        engine.ask(memory, "What is shown?", max_new_tokens=1)
    with devices.counting() as three:
        engine.ask(memory, "What is shown?", max_new_tokens=3)
    assert (three.kernels - one.kernels) / 2 <= TOKEN_LAUNCHES * LAYERS + 10
    assert three.waits - one.waits <= 2
    assert three.attention_kinds() == {"flash varlen"}
