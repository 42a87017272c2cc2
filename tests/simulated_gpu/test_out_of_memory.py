"""A card that is too small for a step: what failed is let go of, the step is cut smaller, and the numbers stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        yield devices, true_size_engine("video-xl-2", devices, layers=2, vision_layers=1)


@contextmanager
def room(devices: SimulatedDevices, megabytes: float) -> Iterator[None]:
    """Let so much more be held than is now."""
    gc.collect()
    devices.limit = devices.live[0] + int(megabytes * 1e6)
    try:
        yield
    finally:
        devices.limit = None


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
    devices.limit = before + 10**6  # not even the frames fit
    with pytest.raises(DoesNotFitError, match="ran out of memory on 4 frames at once"):
        engine.encode(frames=frames(16), fps=1, prefill="chunked")
    gc.collect()
    assert devices.live[0] <= before + 10**6
    devices.limit = None
    assert engine.encode(frames=frames(16), fps=1, prefill="chunked").frames == 16


def test_fewer_questions_at_once_fit(small: tuple[SimulatedDevices, VideoXL]) -> None:
    devices, engine = small
    memory = engine.encode(frames=frames(32), fps=1, prefill="chunked")
    with room(devices, 20):  # sixteen need 33 MB
        answers = engine.ask(memory, ["What is it then?"] * 16, max_new_tokens=2, evidence=False)
    assert len(answers) == 16
    told = "the GPU ran out of memory with 16 questions at once; went on with 8 at a time"
    assert all(told in answer.warnings or len(answer.warnings) == 1 for answer in answers)
    assert all(answer.usage.together <= 8 for answer in answers)
    with room(devices, 0.1), pytest.raises(DoesNotFitError, match="1 questions at once"):
        engine.ask(memory, ["What is it then?"] * 16, max_new_tokens=2, evidence=False)


def test_what_does_not_fit_at_all_says_what_would(small: tuple[SimulatedDevices, VideoXL], tmp_path: Path) -> None:
    devices, engine = small
    memory = engine.encode(frames=frames(48), fps=1, prefill="chunked")
    bilevel = "bilevel:top_k=1,block_size=1"
    with room(devices, 2), pytest.raises(DoesNotFitError, match=r"mixed .*unharmed: ask with decode='dense'"):
        engine.ask(memory, "What?", decode=bilevel)
    with room(devices, 1), pytest.raises(DoesNotFitError, match="copied what trimming leaves"):
        memory.trim(start=20)
    with room(devices, 0.01), pytest.raises(DoesNotFitError, match="when it was saved"):
        memory.save(tmp_path / "memory.vxl")
    assert memory.frames == 48
    assert engine.ask(memory, "What?", max_new_tokens=1).usage.new_tokens == 1


def test_what_is_kept_for_the_next_question_gives_way(small: tuple[SimulatedDevices, VideoXL]) -> None:
    devices, engine = small
    memory = engine.encode(frames=frames(48), fps=1, prefill="chunked")
    engine.ask(memory, "What?", decode="bilevel:top_k=1,block_size=1", max_new_tokens=1, evidence=False)
    kept = memory.coarse_kv[4].room
    gc.collect()
    before = devices.live[0]
    with devices.counting():
        engine.encode(frames=frames(4), fps=1, prefill="chunked")
        needed = devices.peak[0] - before
    assert kept.nbytes > 2 * 10**6
    with room(devices, (needed - kept.nbytes / 2) / 1e6):
        assert engine.encode(frames=frames(4), fps=1, prefill="chunked").warnings == ()
    assert not kept.nbytes
