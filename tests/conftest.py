"""Shared by all tests: small models, one small video, and what is optional."""

from __future__ import annotations

import gc
import importlib.util
import os
from pathlib import Path

import hypothesis
import pytest
import torch

from tests import media

# The same examples on any day: a change is not blamed for what it did not do.
# `script/test --hypothesis-profile=default` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.load_profile("fixed")


def require(module: str) -> None:
    """Skip without an optional package; fail instead where everything is meant to be installed."""
    if importlib.util.find_spec(module) is None:
        message = f"{module} is not installed"
        pytest.fail(message) if os.environ.get("VIDEOXL_REQUIRE_ALL") == "1" else pytest.skip(message)


def pytest_collection_finish() -> None:
    """All modules are loaded then, for good: a million objects that no garbage collection need look at again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _restored_random_state():
    """What a test draws from torch's global generator does not change the next test."""
    before = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(before)


@pytest.fixture(scope="session")
def tiny():
    """A Video-XL-2 with random weights; see :mod:`tests.model.random_tiny`."""
    from tests.model.random_tiny import tiny_engine

    return tiny_engine()


@pytest.fixture(scope="session")
def tiny_v1():
    """A Video-XL with random weights."""
    from tests.model.random_tiny import tiny_engine

    return tiny_engine("tiny-v1")


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory) -> Path:
    """``tiny`` as a user would save it: weights, config, tokenizer, processor."""
    from videoxl.hf.processing import VideoXLProcessor

    folder = tmp_path_factory.mktemp("saved") / "tiny"
    tiny.model.save_pretrained(folder)
    VideoXLProcessor.from_config(tiny.config, tiny.tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """50 numbered frames of 160 x 120 at 5 fps: ten seconds."""
    return media.write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=50, fps=5)
