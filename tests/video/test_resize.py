"""Resizing gives the bytes the released models were fed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videoxl.video import Frames, Resize
from videoxl.video.resize import resize_pixels

RECORDED = json.loads((Path(__file__).parent.parent / "fixtures" / "sampling.json").read_text())["resize"]


def recorded_picture(seed: int, name: str, height: int, width: int) -> np.ndarray:
    """The picture behind a recorded result, drawn again from its seed and name."""
    key = hashlib.sha256(f"{seed}:input:{name}".encode()).digest()[:16]
    random = np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))
    coarse = random.integers(0, 256, (8, 8, 3)).astype(np.int64)
    rows, columns = (np.arange(n) * 8 // n for n in (height, width))
    return np.clip(coarse[rows][:, columns] + random.integers(-40, 41, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("seed", "name", "height", "width", "size", "mode", "expected"), RECORDED)
def test_resize_equals_the_recorded_bytes(seed, name, height, width, size, mode, expected):
    resized = resize_pixels(recorded_picture(seed, name, height, width), Resize(size, size, mode))
    assert resized.shape == (size, size, 3)
    assert hashlib.sha256(resized.tobytes()).hexdigest()[:16] == expected


def test_stretch_is_pillow_bicubic():
    picture = recorded_picture(1, "any", 71, 133)
    expected = np.asarray(Image.fromarray(picture).resize((40, 30), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_pixels(picture, Resize(30, 40)), expected)


def test_pad_centres_with_the_offset_rounded_down():
    padded = resize_pixels(np.zeros((4, 7, 3), np.uint8), Resize(7, 7, "pad"))
    assert (padded[[0, 5, 6]] == 127).all()
    assert (padded[1:5] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "height"),
        ((4, 2.5), "width"),
        ((4, 4, "fit"), "available: stretch, pad, crop"),
        ((4, 5, "pad"), "square"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Resize(*arguments)


def frames_of(**changes):
    parts = {
        "pixels_FHWC": np.zeros((2, 4, 6, 3), np.uint8),
        "timestamps_F": np.array([0.0, 1.0]),
        "indices_F": np.array([0, 30]),
    }
    return Frames(**{**parts, **changes})


def test_frames_show_their_shape_not_their_numbers():
    assert repr(frames_of()) == "Frames(uint8[2, 4, 6, 3], 0.00-1.00 s)"
    assert len(frames_of()) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels_FHWC": np.zeros((2, 4, 6, 3))}, "uint8"),
        ({"pixels_FHWC": np.zeros((2, 3, 4, 6), np.uint8)}, r"\[F, H, W, 3\]"),
        ({"timestamps_F": np.array([0.0])}, r"float64 \[2\]"),
        ({"timestamps_F": np.array([1.0, 0.5])}, "ascending"),
        ({"timestamps_F": np.array([0.0, np.nan])}, "finite"),
        ({"indices_F": np.array([0.0, 1.0])}, "int64"),
    ],
)
def test_frames_check_themselves(changes, message):
    with pytest.raises(ValueError, match=message):
        frames_of(**changes)
