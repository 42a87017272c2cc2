"""The image processor of released scripts resizes with our own pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from videoxl.model.vision import normalize_pixels
from videoxl.released.image_processors import CLIPImageProcessorPil
from videoxl.video import Resize
from videoxl.video.resize import resize_pixels


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(320, 568), (568, 320), (300, 400), (1080, 1920), (97, 61)])
def test_pictures_are_cut_out_as_frames_are(size):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    pixels = noise(*size)
    got = processor.preprocess([Image.fromarray(pixels)], return_tensors="pt")["pixel_values"]
    expected = torch.tensor(resize_pixels(pixels, Resize(336, 336, "crop")))[None]
    torch.testing.assert_close(got, normalize_pixels(expected, processor.image_mean, processor.image_std))


def test_a_size_of_two_sides_is_the_size():
    processor = CLIPImageProcessorPil(size={"height": 40, "width": 24}, do_center_crop=False, do_normalize=False)
    got = processor.preprocess([Image.fromarray(noise(50, 70))], return_tensors="np")["pixel_values"]
    expected = resize_pixels(noise(50, 70), Resize(40, 24)).transpose(2, 0, 1)
    np.testing.assert_array_equal(np.rint(got[0] * 255), expected)


def test_other_filters_are_those_of_transformers():
    ours, theirs = (
        klass(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=Image.Resampling.BILINEAR)
        for klass in (CLIPImageProcessorPil, transformers.CLIPImageProcessorPil)
    )
    pictures = [Image.fromarray(noise(90, 60))]
    np.testing.assert_array_equal(
        *(p.preprocess(pictures, return_tensors="np")["pixel_values"] for p in (ours, theirs))
    )


def test_a_saved_processor_is_saved_as_that_of_transformers(tmp_path):
    texts = []
    for klass in (CLIPImageProcessorPil, transformers.CLIPImageProcessorPil):
        klass().save_pretrained(tmp_path)
        texts.append((tmp_path / "preprocessor_config.json").read_text())
    assert texts[0] == texts[1]
    assert isinstance(CLIPImageProcessorPil.from_pretrained(tmp_path), CLIPImageProcessorPil)
