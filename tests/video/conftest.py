"""Videos that the tests of this folder share, drawn once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import media
from tests.video.taken_over_server import boot
from videoxl.video import open_video


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session")
def plain(folder) -> Path:
    """100 numbered frames at 25 fps: H.264 with B-frames, index at the front."""
    return media.write_video(folder / "plain.mp4", container_options={"movflags": "faststart"})


@pytest.fixture(scope="module")
def usual_server_afterwards() -> Iterator[None]:
    """For tests whose decoder processes come from another fork server."""
    yield
    boot()


@pytest.fixture
def nothing_left(plain):
    """Fail when the test leaves a process or a descriptor behind.

    The fork server is not counted, nor is what other tests started for good (multiprocessing's resource tracker).
    """
    open_video(plain).close()
    gc.collect()
    children, descriptors = left()
    yield
    gc.collect()
    children_now, descriptors_now = left()
    assert len(children_now) <= len(children)
    assert len(descriptors_now) <= len(descriptors)


def left() -> tuple[list[psutil.Process], list[str]]:
    """Processes that this one has started, and descriptors that it holds."""
    return psutil.Process().children(recursive=True), os.listdir("/proc/self/fd")
