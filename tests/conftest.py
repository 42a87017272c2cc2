"""Shared by all tests: the embedded model, one small video, and what is optional."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from tests import media


def require(module: str) -> None:
    """Skip without an optional package; fail instead where everything is meant to be installed."""
    if importlib.util.find_spec(module) is None:
        message = f"{module} is not installed"
        pytest.fail(message) if os.environ.get("VIDEOXL_REQUIRE_ALL") == "1" else pytest.skip(message)


@pytest.fixture(autouse=True)
def _restored_random_state():
    """What a test draws from torch's global generator does not change the next test."""
    before = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(before)


@pytest.fixture(scope="session")
def tiny():
    """``videoxl.load("tiny")``."""
    import videoxl

    return videoxl.load("tiny", device="cpu")


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """50 numbered frames of 160 x 120 at 5 fps: ten seconds."""
    return media.write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=50, fps=5)
