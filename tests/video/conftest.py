"""Videos shared by the tests of this folder, drawn once."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import psutil
import pytest

from tests import media


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session")
def plain(folder) -> Path:
    """100 numbered frames at 25 fps: H.264 with B-frames, index at the front."""
    return media.write_video(folder / "plain.mp4", container_options={"movflags": "faststart"})


@pytest.fixture
def nothing_left():
    """Fails when the test leaves a child process or a descriptor behind."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert psutil.Process().children() == []
    assert set(os.listdir("/proc/self/fd")) <= before
