"""Kernels by card and dtype, what a card lacks, and models whose layers lie on two cards."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import videoxl
from tests.simulated_gpu import budgets
from tests.simulated_gpu.card import A100, H200, RTX_4090, T4, Card
from tests.simulated_gpu.counts import Counts
from tests.simulated_gpu.cuda import simulated
from tests.simulated_gpu.everything import QUESTION
from tests.simulated_gpu.true_size import true_size_engine
from videoxl.errors import MissingDependencyError
from videoxl.inference.supports import check_dtype

BILEVEL = "bilevel:top_k=1,block_size=1"
VARLEN, OLDER = {"flash varlen"}, {"efficient", "efficient lower right"}


@pytest.mark.parametrize(
    ("card", "dtype", "kinds"),
    [
        (H200, torch.bfloat16, VARLEN),
        (A100, torch.bfloat16, VARLEN),
        (RTX_4090, torch.float16, VARLEN),
        (T4, torch.float16, OLDER),
        (H200, torch.float32, OLDER),
    ],
)
def test_kernels_of_the_language_model(card: Card, dtype: torch.dtype, kinds: set[str]) -> None:
    with simulated(card) as devices:
        engine = true_size_engine("video-xl-2", devices, layers=2, vision_layers=1, dtype=dtype)
        picture = np.zeros((384, 384, 3), np.uint8)
        with devices.counting() as counts:
            memory = engine.encode(frames=[picture] * 16, fps=1, prefill="chunked")
            full = engine.encode(frames=[picture] * 16, fps=1, prefill="full")
            engine.ask(memory, QUESTION, max_new_tokens=1, evidence=False)
            engine.ask(full, QUESTION, max_new_tokens=1, decode=BILEVEL, evidence=False)
    vision = ("model/vision.py", "model/token_synthesis.py")
    assert {kind for kind, where in counts.attention if not where.startswith(vision)} <= kinds
    assert not any("math" in kind for kind in counts.attention_kinds())


def test_a_card_that_emulates_a_dtype_says_so() -> None:
    with simulated(T4), pytest.warns(UserWarning, match="Tesla T4 has no bfloat16 units and emulates them"):
        check_dtype(torch.bfloat16, torch.device("cuda"))
    with simulated(T4, real=True), pytest.warns(UserWarning, match="emulates"):
        videoxl.load("tiny", device="cuda", dtype="bfloat16")
    with (
        simulated(T4),
        pytest.warns(UserWarning, match="Tesla T4 has no flash attention, which needs .* 8.0"),
    ):
        check_dtype(torch.float16, torch.device("cuda"))
    with (
        simulated(RTX_4090),
        pytest.warns(UserWarning, match="float32 has no flash attention on NVIDIA GeForce"),
    ):
        check_dtype(torch.float32, torch.device("cuda"))
    with simulated(H200), warnings.catch_warnings():
        warnings.simplefilter("error")
        check_dtype(torch.bfloat16, {"model": 0, "lm_head": "cpu"})


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"attention": "flash_attention_2"}, ValueError, "needs compute capability 8.0, and Tesla T4 has 7.5"),
        ({"attention": "fastest"}, ValueError, "allowed: auto, sdpa, eager"),
        ({"dtype": "int8"}, ValueError, "For smaller weights give quantization"),
        ({"dtype": "float8_e4m3fn"}, ValueError, "not one to compute in"),
        ({"device": "cuda:1"}, ValueError, "only 1 of them"),
    ],
)
def test_what_a_card_lacks_is_refused_in_a_line(settings: dict[str, str], error: type[Exception], message: str) -> None:
    with simulated(T4), pytest.raises(error, match=message) as raised:
        videoxl.load("tiny", **{"device": "cuda", **settings})
    assert "\n" not in str(raised.value)


def test_a_kernel_whose_package_is_missing_names_it() -> None:
    told = r"flash_attn_3: install it, or use attention='auto'"
    with simulated(H200), pytest.raises(MissingDependencyError, match=told):
        videoxl.load("tiny", device="cuda", attention="flash_attention_3")


def between(counts: Counts) -> int:
    """Tensors that went from card to card."""
    return sum(number for (kind, _), number in counts.copies.items() if kind == "between devices")


def test_layers_on_two_cards_pass_on_hidden_states_alone() -> None:
    answers = []
    with simulated(count=2) as devices:
        engine = true_size_engine("video-xl-2", devices, layers=2, vision_layers=1)
        assert [device.index for device in engine.layer_devices] == [0, 1]
        picture = np.zeros((384, 384, 3), np.uint8)
        engine.encode(frames=[picture] * 4, fps=1, prefill="chunked")
        with devices.counting() as tile:
            memory = engine.encode(frames=[picture] * 96, fps=1, prefill="chunked")
        for tokens in (1, 5):
            with devices.counting() as counts:
                engine.ask(memory, QUESTION, max_new_tokens=tokens, evidence=False)
            answers.append(between(counts))
        engine.ask(memory, QUESTION, max_new_tokens=2, decode=BILEVEL)
        engine.ask(memory, [QUESTION, "Who?"], max_new_tokens=2, do_sample=True)
        assert min(devices.live) > 10**9
    hidden = len(memory.token_ids) * 3584 * 2  # of a tile, in bf16
    assert tile.waits == 1
    assert between(tile) <= budgets.CARD_COPIES_PER_TILE
    assert tile.moved["between devices"] <= 1.05 * hidden
    assert (answers[1] - answers[0]) / 4 <= budgets.CARD_COPIES_PER_TOKEN
