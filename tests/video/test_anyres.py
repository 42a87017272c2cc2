"""Still pictures are cut into the same crops as for the released model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.pillow_bicubic import bicubic
from videoxl.video.anyres import best_resolution, cut_crops, grid_shape, parse_pinpoints

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "golden" / "cases.json").read_text())["cases"]
ROWS = next(case["rows"] for case in GOLDEN if case["kind"] == "v1_anyres_grid")
PINPOINTS = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48], [64, 64]]
SIDE = 16

sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))
few = settings(max_examples=60, deadline=None)


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['image_size_w_h']}-{row['patch']}-{row['pinpoints']!s:.6}")
def test_grids_equal_the_recorded_ones(row):
    size, side = tuple(row["image_size_w_h"]), row["patch"]
    assert grid_shape(size, row["pinpoints"], side) == tuple(row["grid_w_h"])
    if "best_resolution" in row:
        assert best_resolution(size, parse_pinpoints(row["pinpoints"], side)) == tuple(row["best_resolution"])


def plain_best(size, candidates):
    """Apply the rule step by step."""
    best, most, least = None, 0, float("inf")
    for width, height in candidates:
        scale = min(width / size[0], height / size[1])
        shown = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        waste = width * height - shown
        if shown > most or (shown == most and waste < least):
            best, most, least = (width, height), shown, waste
    return best


@few
@given(sizes, st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8))
def test_the_best_resolution_is_the_first_that_shows_most_and_wastes_least(size, grids):
    candidates = [(columns * SIDE, rows * SIDE) for columns, rows in grids]
    assert best_resolution(size, candidates) == plain_best(size, candidates)


@few
@given(sizes)
def test_crops_are_the_base_and_the_canvas_row_by_row(size):
    pixels = picture(*size)
    crops = cut_crops(pixels, PINPOINTS, SIDE)
    columns, rows = grid_shape(size, PINPOINTS, SIDE)
    assert crops.dtype == np.uint8
    assert crops.shape == (1 + columns * rows, SIDE, SIDE, 3)
    np.testing.assert_array_equal(crops[0], bicubic(pixels, SIDE, SIDE))
    canvas = np.concatenate([np.concatenate(list(crops[1 + r * columns :][:columns]), axis=1) for r in range(rows)])
    across, down = columns * SIDE / size[0], rows * SIDE / size[1]
    wide, high = columns * SIDE, rows * SIDE
    if across < down:  # the width is filled
        high = min(-int(-size[1] * across // 1), high)
    else:
        wide = min(-int(-size[0] * down // 1), wide)
    left, top = (columns * SIDE - wide) // 2, (rows * SIDE - high) // 2
    inside = canvas[top : top + high, left : left + wide]
    np.testing.assert_array_equal(inside, bicubic(pixels, wide, high))
    canvas = canvas.copy()
    canvas[top : top + high, left : left + wide] = 0
    assert not canvas.any()


@few
@given(st.integers(1, 4), st.integers(1, 4))
def test_a_picture_that_fits_exactly_is_only_cut(columns, rows):
    pixels = picture(columns * SIDE, rows * SIDE)
    crops = cut_crops(pixels, [[columns * SIDE, rows * SIDE]], SIDE)
    for number, crop in enumerate(crops[1:]):
        row, column = divmod(number, columns)
        expected = pixels[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
        np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize("text", ["(1x1),...,(6x6)", "(1x1)...(6x6)", "(1x1),(2x2),(6x6)"])
def test_a_range_stands_for_all_grids_between(text):
    found = parse_pinpoints(text, 336)
    assert found == [(i * 336, j * 336) for i in range(1, 7) for j in range(1, 7)]


def test_listed_resolutions_keep_their_order_in_any_notation():
    expected = [(672, 336), (336, 672)]
    assert parse_pinpoints("[[672, 336], [336, 672]]", 336) == expected
    assert parse_pinpoints([[672, 336], (336, 672)], 336) == expected


@pytest.mark.parametrize(
    ("pinpoints", "side", "message"),
    [
        ("(1x1),...,(6x6)", 56, "need a crop side of .*336.* got 56"),
        ("6x6", 336, r"must look like '\(1x1\),...,\(6x6\)', got '6x6'"),
        ("(6x6),...,(1x1)", 336, r"must go up from \(1x1\)"),
        ("(0x0),...,(2x2)", 336, r"must go up from \(1x1\)"),
        ([], 336, "is empty"),
        ([[336, 400]], 336, r"multiples of the crop side 336, got \(336, 400\)"),
        ([[0, 336]], 336, "multiples of the crop side"),
        ("[[336]]", 336, "must be pairs of pixels"),
        ("[[336, 672]", 336, "must be pairs of pixels"),
        ("wide", 336, "must be pairs of pixels"),
        (7, 336, "must be pairs of pixels"),
        (None, 336, "must be pairs of pixels"),
    ],
)
def test_impossible_resolutions_are_refused(pinpoints, side, message):
    with pytest.raises(ValueError, match=message):
        parse_pinpoints(pinpoints, side)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match=r"a picture must be uint8 \[H, W, 3\] and not empty, got"):
        cut_crops(pixels, PINPOINTS, SIDE)
