"""A card that is too small for a step: what failed is let go of, the step is cut smaller, and the numbers stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from tests.simulated_gpu.cuda import simulated
from tests.simulated_gpu.device import SimulatedDevices
from tests.simulated_gpu.true_size import true_size_engine
from videoxl.errors import DoesNotFitError
from videoxl.inference.engine import VideoXL

FRAMES = 96


@pytest.fixture
def small() -> Iterator[tuple[SimulatedDevices, VideoXL]]:
    with simulated() as devices:
        yield devices, true_size_engine("video-xl-2", devices, layers=2)


def frames(count: int) -> list[np.ndarray]:
    return [np.zeros((384, 384, 3), np.uint8)] * count


def test_fewer_frames_at_a_time_fit_at_once(small: tuple[SimulatedDevices, VideoXL]) -> None:
    devices, engine = small
    devices.limit = devices.live[0] + int(1.3e9)  # 96 frames need 1.8 GB, 48 half of that
    memory = engine.encode(frames=frames(FRAMES), fps=1, prefill="chunked")
    assert memory.warnings == ("the GPU ran out of memory; went on with 48 frames at a time",)
    assert memory.frames == FRAMES


def test_nothing_of_what_failed_is_left(small: tuple[SimulatedDevices, VideoXL]) -> None:
    devices, engine = small
    before = devices.live[0]
    devices.limit = before + int(0.1e9)
    with pytest.raises(DoesNotFitError, match="ran out of memory on 4 frames at once"):
        engine.encode(frames=frames(16), fps=1, prefill="chunked")
    gc.collect()
    assert devices.live[0] <= before + 10**6
    devices.limit = None
    assert engine.encode(frames=frames(16), fps=1, prefill="chunked").frames == 16
