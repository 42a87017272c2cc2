"""The released models at true width, a few layers of them, 96 frames: kernels, waits, launches and peaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from tests.simulated_gpu import budgets
from tests.simulated_gpu.counts import Counts
from tests.simulated_gpu.cuda import simulated
from tests.simulated_gpu.device import SimulatedDevices
from tests.simulated_gpu.everything import QUESTION, everything
from tests.simulated_gpu.true_size import true_size_engine
from videoxl.inference.engine import VideoXL
from videoxl.inference.plan.footprint import Sizes, footprint
from videoxl.inference.prefill import selective
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.inference.prompt import span_for
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.token_scores import kept_count

FRAMES = 96
QUESTION_OF_30 = " ".join(["word"] * 23)
"""With the template around it."""
READINGS = [
    ("video-xl", "beacon:ratio=8"),
    ("video-xl-pro", "selective"),
    ("video-xl-2", "chunked"),
    ("video-xl-2", "chunked:offload=true"),
    *(pytest.param((family, "full"), marks=pytest.mark.slow) for family in ("video-xl", "video-xl-pro", "video-xl-2")),
]
LAYERS = 2
"""Of the language model. Each does the same; all of them take minutes to simulate."""


def frames(engine: VideoXL, count: int) -> list[np.ndarray]:
    side = engine.config.vision_config.image_size
    return [np.zeros((side, side, 3), np.uint8)] * count


def first_tokens(scores_P: torch.Tensor, keep: float) -> torch.Tensor:
    """Stands for :func:`select_tokens`: scores have no values here."""
    return torch.arange(len(scores_P), device=scores_P.device) < kept_count(len(scores_P), keep)


@pytest.fixture(scope="module", params=READINGS, ids="-".join)
def reading(request: Any) -> Iterator[tuple[SimulatedDevices, VideoXL, str, Counts, VideoMemory, float]]:
    """A model that has read 96 frames once before: what is counted is the second reading."""
    family, prefill = request.param
    with simulated() as devices, mock.patch.object(selective, "select_tokens", first_tokens):
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
    assert counts.attention_flops("masked") <= budgets.MASKED_SHARE * counts.attention_flops()


def test_nothing_waits_for_the_device_in_a_tile(reading: Any) -> None:
    _, _, prefill, counts, _, _ = reading
    waits = [(why, where) for why, where in counts.synchronisations if "host_cache" not in where]
    chosen = ["copy to host"] if prefill == "selective" else []  # which tokens stay, when all have been scored
    assert [why for why, _ in waits] == [*chosen, "event"]  # the clock is read once, at the end
    assert "offload" in prefill or len(counts.synchronisations) == 1 + len(chosen)  # new pinned memory is waited for
    assert not [kind for kind, where in counts.copies if kind == "to device" and "host_cache" not in where]


def test_launches_per_tile(reading: Any) -> None:
    _, _, prefill, counts, _, _ = reading
    assert counts.kernels <= budgets.VISION_LAUNCHES + LAYERS * budgets.LAYER_LAUNCHES[prefill]


def test_the_plan_knows_the_peak(reading: Any) -> None:
    _, engine, prefill, _, memory, peak = reading
    strategy, prefix = choose_prefill(prefill, engine.config), len(engine.chat_format.prefix())
    span = span_for(engine.config, memory.timestamps, engine.chat_format.tokenize)
    sizes = Sizes.of(strategy, engine.config, FRAMES, prefix, span)
    weights = sum(p.numel() * p.element_size() for p in engine.model.parameters())
    planned = weights + footprint(engine.config, sizes, 256, 2, strategy).device
    assert abs(planned / peak - 1) <= budgets.PLAN_TOLERANCE
    assert planned >= peak  # never too little


def test_launches_and_waits_of_a_token(reading: Any) -> None:
    devices, engine, _, _, memory, _ = reading
    with devices.counting() as one:
        engine.ask(memory, QUESTION, max_new_tokens=1, evidence=False)
    with devices.counting() as five:
        engine.ask(memory, QUESTION, max_new_tokens=5, evidence=False)
    launches = budgets.TOKEN_LAUNCHES * LAYERS + budgets.TOKEN_OTHER_LAUNCHES
    assert (five.kernels - one.kernels) / 4 <= launches
    assert five.waits - one.waits <= 4 * budgets.TOKEN_WAITS
    assert five.attention_kinds() == {"flash varlen"}


def test_several_questions_read_a_memory_and_the_weights_once(reading: Any) -> None:
    devices, engine, _, _, memory, _ = reading
    moved, launches = [], []
    for questions, tokens in ((1, 1), (1, 3), (16, 1), (16, 3)):
        with devices.counting() as counts:
            engine.ask(memory, [QUESTION] * questions, max_new_tokens=tokens, evidence=False)
        moved.append(counts.moved["device"])
        launches.append(counts.kernels)
    assert moved[3] - moved[2] <= budgets.TOGETHER_BYTES * (moved[1] - moved[0])
    assert (launches[3] - launches[2]) / 2 <= budgets.TOGETHER_LAUNCHES * LAYERS + budgets.TOKEN_OTHER_LAUNCHES


def test_a_question_moves_weights_and_memory_once(reading: Any) -> None:
    devices, engine, _, _, memory, _ = reading
    text = engine.model.model.language_model
    weights = sum(p.numel() * p.element_size() for p in [*text.layers.parameters(), *engine.model.lm_head.parameters()])
    with devices.counting() as counts:
        engine.ask(memory, QUESTION_OF_30, max_new_tokens=1)
    least = weights + memory.nbytes
    assert counts.moved["device"] <= budgets.QUESTION_BYTES * least


def test_everything_else_meets_no_other_device_and_no_slow_kernel(reading: Any, tmp_path: Path) -> None:
    devices, engine, _, _, memory, _ = reading
    with devices.counting() as counts:
        found = everything(engine, memory, frames(engine, 8), tmp_path, valued=False)
    assert found["from file"]
    assert not [kind for kind in counts.attention_kinds() if "math" in kind]
    assert {where.split(":")[0] for kind, where in counts.attention if "cudnn" in kind} <= {"model/vision.py"}
