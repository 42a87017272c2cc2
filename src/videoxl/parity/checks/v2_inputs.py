"""Checks of what goes into Video-XL-2 and Video-XL-Pro: pixels, frame numbers, and times in prompts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import torch

from videoxl.inference.prompt import round_time, time_text, times_to_seconds
from videoxl.model.vision import normalize_pixels
from videoxl.parity.golden import Case, GoldenError, Json, picture
from videoxl.video import Resize
from videoxl.video.frames import ResizeMode
from videoxl.video.resize import resize_pixels
from videoxl.video.sampling import keep_whole_groups, released_indices, uniform_indices


def preprocess(case: Case) -> None:
    """Check the way from 8-bit pictures to float pixels."""
    height, width = case.spec["size"]
    mean = std = [0.5, 0.5, 0.5]
    for item in case.spec["items"]:
        name = re.search(r"'([^']+)'", item["input"])
        if name is None:
            raise GoldenError(f"cannot read the input rule {item['input']!r}")
        mode: ResizeMode = "pad" if "square" in item.get("kind", "") else "stretch"
        pictures = [
            picture(case.seed, name[1].replace("<t>", str(t)), item["height"], item["width"]) for t in range(item["n"])
        ]
        resized = np.stack([resize_pixels(p, Resize(height, width, mode=mode)) for p in pictures])
        case.compare(item["array"], normalize_pixels(torch.from_numpy(resized), mean, std))


def sampling(case: Case) -> None:
    """Check frame numbers, timestamps and group texts of the released frame selection."""
    for row in case.spec["rows"]:
        for column, whole_groups in (("pure", True), ("chunk_modes", False), ("uniform", False)):
            if column in row:
                _compare_sampling_row(case, row, row[column], column, whole_groups)


def _compare_sampling_row(case: Case, row: Json, want: Json, column: str, whole_groups: bool) -> None:
    total, rate = row["total_frames"], row["avg_fps"]
    label = f"{total} frames at {rate} fps, {column}"
    try:
        if column == "uniform":
            chosen = uniform_indices(total, row["max_frames"])
        else:
            chosen = released_indices(total, rate, row["fps"], row["max_fps"], row["max_frames"])
    except ValueError:
        case.compare_equal(f"{label}: refused", True, "error" in want)
        return
    chosen = keep_whole_groups(chosen, 4) if whole_groups else chosen
    numbers = [int(n) for n in chosen]
    times = [round_time(n / rate) for n in numbers]
    texts = [time_text(t) for t in times[::4]]
    got = {
        "n": len(numbers),
        "frame_idx_sha256": _text_digest(numbers),
        "timestamps_sha256": _text_digest(times),
        "frame_idx": numbers,
        "timestamps": times,
        "group_texts": texts,
        "frame_idx_head": numbers[:6],
        "frame_idx_tail": numbers[-6:],
        "timestamps_tail": times[-6:],
        "group_texts_tail": texts[-3:],
        "n_groups": len(texts),
    }
    case.compare_equal(label, {key: got.get(key) for key in want}, want)


def _text_digest(values: Sequence[float]) -> str:
    return hashlib.sha256(",".join(str(v) for v in values).encode()).hexdigest()


def time_in_prompt(case: Case) -> None:
    """Check times in prompts, rewritten as seconds."""
    for row in case.spec["rows"]:
        case.compare_equal(row["prompt"], times_to_seconds(row["prompt"]), row["converted"])
