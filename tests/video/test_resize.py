"""Resizing gives the same bytes as for the released models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.video.pillow_bicubic import bicubic
from videoxl.video import Frames, Resize
from videoxl.video.resize import resize_picture, resize_pixels

RECORDED = json.loads((Path(__file__).parent.parent / "fixtures" / "sampling.json").read_text())["resize"]


def recorded_picture(seed: int, name: str, height: int, width: int) -> np.ndarray:
    """Draw the picture of a recorded result again, from its seed and name."""
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


MADE_WITH_PILLOW_12 = [
    ((320, 568), (384, 384), "6dd1a57934dafa6f"),
    ((240, 426), (384, 384), "5bfd03860360a71e"),
    ((300, 400), (384, 384), "79962059dcc04251"),
    ((1080, 1920), (384, 384), "69b2a1a05b5384ac"),
    ((1920, 1080), (384, 384), "f5639bd9efc8b643"),
    ((568, 320), (384, 384), "04f796e1ffe82072"),
    ((426, 240), (336, 336), "9ce2c9efd8876df5"),
    ((720, 1280), (336, 597), "116cf6dac803f8e6"),
    ((640, 480), (448, 448), "9619002a1f7d5099"),
    ((101, 57), (333, 77), "5c14571bd309b784"),
    ((57, 101), (77, 333), "71d93d6f1b5192aa"),
    ((1, 9), (5, 3), "33763cb2509c344d"),
    ((384, 700), (384, 384), "476b4dce9b9dbbdb"),
    ((700, 384), (384, 384), "185a17a71a17ef73"),
    ((33, 47), (384, 216), "a2d731be24064fea"),
]
"""(width, height), (width, height) after resizing, sha256: one call of Pillow 12.3, the same as of Pillow 11.0."""


@pytest.mark.parametrize(("size", "target", "expected"), MADE_WITH_PILLOW_12)
def test_pixels_do_not_depend_on_the_pillow_version(size, target, expected):
    picture = recorded_picture(2, "versions", size[1], size[0])
    resized = np.asarray(resize_picture(Image.fromarray(picture), *target))
    assert hashlib.sha256(resized.tobytes()).hexdigest()[:16] == expected


SIDES = st.integers(1, 60)


@settings(max_examples=150, deadline=None)
@given(SIDES, st.integers(1, 300), SIDES, SIDES)
def test_every_size_is_resized_width_first(width, height, new_width, new_height):
    """Very tall pictures are too, although some versions of Pillow begin with their height."""
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    expected = bicubic(pixels, new_width, new_height)
    np.testing.assert_array_equal(resize_pixels(pixels, Resize(new_height, new_width)), expected)


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
