"""The torchcodec reader gives the same frames as the PyAV reader. Skipped where it cannot be loaded."""

from __future__ import annotations

import os

import numpy as np
import pytest

from videoxl.config import Sampling
from videoxl.errors import MissingDependencyError
from videoxl.video import Resize, open_video


@pytest.fixture(scope="module")
def reader(plain) -> str:
    try:
        open_video(plain, reader="torchcodec").close()
    except MissingDependencyError as error:
        if os.environ.get("VIDEOXL_REQUIRE_ALL") == "1":
            pytest.fail(f"VIDEOXL_REQUIRE_ALL=1, but {error}")
        pytest.skip(str(error))
    return "torchcodec"


def frames_with(path, reader, sampling, resize):
    with open_video(path, reader=reader) as source:
        assert source.info.reader == reader
        batches = list(source.read(source.select(sampling), resize=resize, batch_frames=7))
    return np.concatenate([b.pixels_FHWC for b in batches]), np.concatenate([b.timestamps_F for b in batches])


@pytest.mark.parametrize("sampling", [Sampling(fps=1000), Sampling(num_frames=9), Sampling(times=(0.5, 0.51, 3.0))])
@pytest.mark.parametrize("resize", [None, Resize(48, 48)])
def test_both_readers_give_the_same_frames(plain, reader, sampling, resize):
    pixels, times = frames_with(plain, reader, sampling, resize)
    expected_pixels, expected_times = frames_with(plain, "pyav", sampling, resize)
    np.testing.assert_array_equal(times, expected_times)
    np.testing.assert_array_equal(pixels, expected_pixels)
