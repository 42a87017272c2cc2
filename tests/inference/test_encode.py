"""Stills and pictures that become memories."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.inference.memories import alike, pictures


@pytest.mark.parametrize(("size", "crops"), [((100, 90), 4), ((100, 40), 2), ((40, 100), 2)])
def test_a_still_for_video_xl_is_cut_into_crops(engines, tmp_path, size, crops):
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    picture.save(tmp_path / "still.png")
    memory = engines["tiny-v1"].encode(tmp_path / "still.png", prefill="beacon:ratio=4")
    assert memory.usage.visual_tokens == crops * 16
    assert len(memory.token_ids) == memory.prefix_length + crops * 4
    assert engines["tiny-v1"].ask(memory, "What?", max_new_tokens=3).usage.frames == 1


def test_a_still_can_be_kept_uncompressed(engines, tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "still.png")
    memory = engines["tiny-v1"].encode(tmp_path / "still.png", prefill="full")
    assert len(memory.token_ids) == memory.prefix_length + memory.usage.visual_tokens


def test_several_pictures_are_read_in_order(engines, tmp_path):
    paths = []
    for number, picture in enumerate(pictures(3)):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(picture).save(paths[-1])
    engine = engines["tiny-v1"]
    alike(engine.encode(paths), engine.encode(frames=pictures(3)))
