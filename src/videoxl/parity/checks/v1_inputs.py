"""Checks of what goes into Video-XL: pixels, frame numbers and the grid of a still image (SPEC 2.1, 2.10)."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from videoxl.model.vision import normalize_pixels
from videoxl.parity.golden import Case, GoldenError, Json, picture
from videoxl.video import Resize
from videoxl.video.anyres import best_resolution, cut_crops, grid_shape, parse_pinpoints
from videoxl.video.resize import resize_pixels
from videoxl.video.sampling import uniform_indices


def preprocess(case: Case) -> None:
    """Check the way from 8-bit frames, and still images cut into crops, to float pixels."""
    for item in case.spec["items"]:
        side = item["crop"]
        if "image_grid_pinpoints" in item:
            still, pinpoints = _picture(case, item), item["image_grid_pinpoints"]
            shape = grid_shape((item["width"], item["height"]), pinpoints, side)
            case.compare_equal(f"{item['array']}: grid", list(shape), item["grid_shape_w_h"])
            pixels_FHWC = cut_crops(still, pinpoints, side)
        else:
            frames = [_picture(case, item, number) for number in range(item["n"])]
            pixels_FHWC = np.stack([resize_pixels(frame, Resize(side, side, mode="crop")) for frame in frames])
        pixels = normalize_pixels(torch.from_numpy(pixels_FHWC), OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        case.compare(item["array"], pixels)


def _picture(case: Case, item: Json, number: int = 0) -> np.ndarray:
    name = re.search(r"'([^']+)'", item["input"])
    if name is None:
        raise GoldenError(f"cannot read the input rule {item['input']!r}")
    return picture(case.seed, name[1].replace("<t>", str(number)), item["height"], item["width"])


def sampling(case: Case) -> None:
    """Check frame numbers spread evenly over a video."""
    for row in case.spec["rows"]:
        numbers = uniform_indices(row["total_frames"], row["max_frames"]).tolist()
        label = f"{row['max_frames']} of {row['total_frames']} frames"
        if row["frame_idx"] is not None:
            case.compare_equal(label, numbers, row["frame_idx"])
        digest = hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()
        case.compare_equal(f"{label}: digest", digest, row["frame_idx_sha256"])


def anyres_grid(case: Case) -> None:
    """Check the best resolution and the grid of crops for image sizes."""
    for row in case.spec["rows"]:
        size, side, pinpoints = tuple(row["image_size_w_h"]), row["patch"], row["pinpoints"]
        label = f"{size[0]} x {size[1]} with {pinpoints}"
        case.compare_equal(label, list(grid_shape(size, pinpoints, side)), row["grid_w_h"])
        if "best_resolution" in row:
            best = best_resolution(size, parse_pinpoints(pinpoints, side))
            case.compare_equal(f"{label}: resolution", list(best), row["best_resolution"])
