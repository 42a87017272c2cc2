"""What ``info --system`` says of attention, fused kernels and graphs, on the cards that the tests simulate."""

from __future__ import annotations

import pytest

from tests.simulated_gpu.card import H200, T4
from tests.simulated_gpu.cuda import simulated
from videoxl.inference.fast_paths import fast_paths
from videoxl.model import fused


def test_a_machine_without_a_gpu_says_why(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    found = {path.name: path for path in fast_paths()}
    assert [path.used for path in found.values()] == [True, False, False]
    assert "is built without CUDA; on a CPU their plain form runs" in found["fused kernels"].detail


@pytest.mark.parametrize(
    ("card", "used", "told"),
    [
        (H200, True, "a token is one launch"),
        (T4, False, "a graph needs flash attention; a token is launched kernel by kernel"),
    ],
)
def test_a_card_says_what_it_runs_and_what_it_lacks(monkeypatch, card, used, told):
    monkeypatch.setattr(fused, "why_plain", lambda device: "Triton is missing (no module)")
    with simulated(card):
        found = {path.name: path for path in fast_paths()}
    assert found["cuda:0 flash attention"].used == found["cuda:0 CUDA graphs"].used == used
    assert found["cuda:0 CUDA graphs"].detail.startswith(told)
    assert not found["cuda:0 fused kernels"].used
    assert "Triton is missing (no module); several kernels run" in found["cuda:0 fused kernels"].detail
    assert used or "needs compute capability 8.0, and Tesla T4 has 7.5" in found["cuda:0 flash attention"].detail


def test_every_card_of_several_is_named(monkeypatch):
    monkeypatch.setattr(fused, "why_plain", lambda device: "")
    with simulated(H200, count=2):
        found = {path.name: path for path in fast_paths()}
    assert found["cuda:1 fused kernels"].used
    assert "cuda:0 CUDA graphs" in found
    assert "attention=flash_attention_2" in found
