"""Videos shared by the tests of this folder, drawn once."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import psutil
import pytest

from tests import media
from videoxl.video import open_video


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session")
def plain(folder) -> Path:
    """100 numbered frames at 25 fps: H.264 with B-frames, index at the front."""
    return media.write_video(folder / "plain.mp4", container_options={"movflags": "faststart"})


@pytest.fixture
def nothing_left(plain):
    """Fails when the test leaves a process or a descriptor behind, beyond the one that decoders are forked from."""
    open_video(plain).close()
    gc.collect()
    before = os.listdir("/proc/self/fd")
    yield
    gc.collect()
    assert len(psutil.Process().children(recursive=True)) == 1
    assert len(os.listdir("/proc/self/fd")) <= len(before)
