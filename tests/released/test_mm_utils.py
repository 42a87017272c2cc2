"""Helpers under the released names do what scripts written for the released package expect."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.random_tiny import tiny_tokenizer
from videoxl.model.vision import normalize_pixels
from videoxl.released import constants
from videoxl.released.image_processors import CLIPImageProcessorPil
from videoxl.released.mm_utils import (
    KeywordsStoppingCriteria,
    get_model_name_from_path,
    process_images,
    tokenizer_image_token,
    transform_input_id,
)
from videoxl.video import Resize
from videoxl.video.anyres import cut_crops
from videoxl.video.resize import resize_pixels

SIDE = 32
PINPOINTS = [[64, 32], [32, 64], [64, 64]]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def processor():
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def image(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 100 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def normalised(processor, pixels_FHWC: np.ndarray) -> torch.Tensor:
    return normalize_pixels(torch.tensor(pixels_FHWC), processor.image_mean, processor.image_std)


def test_constants_have_the_released_values():
    assert {name: getattr(constants, name) for name in constants.__all__} == {
        "DEFAULT_IMAGE_PATCH_TOKEN": "<im_patch>",
        "DEFAULT_IMAGE_TOKEN": "<image>",
        "DEFAULT_IM_END_TOKEN": "<im_end>",
        "DEFAULT_IM_START_TOKEN": "<im_start>",
        "IGNORE_INDEX": -100,
        "IMAGE_TOKEN_INDEX": -200,
        "TOKEN_PERFRAME": 144,
    }


# ----------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("prompt", ["one<image>two", "<image>", "no picture", "a<image>b<image>c", "<image>\nend"])
def test_the_text_around_a_picture_is_tokenised_in_pieces(tokenizer, prompt):
    ids = tokenizer_image_token(prompt, tokenizer)
    expected = []
    for number, piece in enumerate(prompt.split("<image>")):
        expected += ([-200] if number else []) + tokenizer.encode(piece, add_special_tokens=False)
    assert ids == expected


def test_a_prompt_as_a_tensor_and_with_another_index(tokenizer):
    ids = tokenizer_image_token("a<image>b", tokenizer, -7, return_tensors="pt")
    assert ids.dtype == torch.int64
    assert ids.tolist() == [*tokenizer.encode("a"), -7, *tokenizer.encode("b")]
    with pytest.raises(ValueError, match="return_tensors must be None or 'pt', got 'np'"):
        tokenizer_image_token("a", tokenizer, return_tensors="np")


def test_a_beginning_token_is_kept_once():
    def tokenize(text):
        return SimpleNamespace(input_ids=[1, *map(ord, text)])

    tokenize.bos_token_id = 1
    assert tokenizer_image_token("a<image>b<image>", tokenize) == [1, ord("a"), -200, ord("b"), -200]


def test_the_placeholder_becomes_as_many_ids_as_there_are_visual_tokens():
    ids = torch.tensor([[5, -200, 6, 7]])
    assert transform_input_id(ids, 3, 99).tolist() == [[5, 99, 99, 99, 6, 7]]
    assert ids.tolist() == [[5, -200, 6, 7]]


@pytest.mark.parametrize(
    ("ids", "message"),
    [([[1, 2]], "exactly once, found 0"), ([[-200, -200]], "found 2"), ([[1], [2]], r"one prompt, \[1, L\]")],
)
def test_prompts_without_exactly_one_placeholder_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        transform_input_id(torch.tensor(ids), 3, 99)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("models/Video_XL", "Video_XL"),
        ("models/Video_XL/", "Video_XL"),
        ("runs/videoxl/checkpoint-500", "videoxl_checkpoint-500"),
        ("Video_XL", "Video_XL"),
        ("checkpoint-5", "checkpoint-5"),
        ("", ""),
    ],
)
def test_the_name_of_a_model_is_the_end_of_its_path(path, name):
    assert get_model_name_from_path(path) == name


def test_a_keyword_stops_only_when_written_after_the_prompt(tokenizer):
    prompt = torch.tensor([tokenizer.encode("stop<|im_end|>")])
    criteria = KeywordsStoppingCriteria(["stop", "<|im_end|>"], tokenizer, prompt)

    def after(text):
        ids = torch.cat([prompt, torch.tensor([tokenizer.encode(text)], dtype=torch.long)], dim=1)
        return criteria(ids, None).tolist()

    assert after("sto") == [False]
    assert after("please stop it") == [True]
    assert after("ok<|im_end|>") == [True]


# ------------------------------------------------------------------------------------------------------------ images


def test_frames_are_processed_as_the_engine_does_it(processor):
    frames = np.random.default_rng(0).integers(0, 256, (3, 45, 71, 3)).astype(np.uint8)
    ours = normalised(processor, np.stack([resize_pixels(f, Resize(SIDE, SIDE, mode="crop")) for f in frames]))
    assert torch.equal(processor.preprocess(frames, return_tensors="pt")["pixel_values"], ours)


@pytest.mark.parametrize("mode", ["anyres", "anyres_max_9"])
def test_anyres_images_are_their_crops(processor, mode):
    config = SimpleNamespace(image_aspect_ratio=mode, image_grid_pinpoints=str(PINPOINTS))
    images = [image(50, 40), image(90, 30)]
    made = process_images(images, processor, config)
    assert [m.shape[0] for m in made] == [5, 3]
    for one, pixels in zip(images, made):
        assert torch.equal(pixels, normalised(processor, cut_crops(np.asarray(one), PINPOINTS, SIDE)))


def test_images_of_one_shape_come_as_one_tensor(processor):
    config = SimpleNamespace(image_aspect_ratio="anyres", image_grid_pinpoints=PINPOINTS)
    assert process_images([image(50, 40)], processor, config).shape == (1, 5, 3, SIDE, SIDE)
    assert process_images([image(50, 40)] * 2, processor, config).shape == (2, 5, 3, SIDE, SIDE)


def test_padded_images_are_centred_on_the_mean_colour(processor):
    pixels = process_images([image(9, 4)], processor, SimpleNamespace(image_aspect_ratio="pad"))
    square = np.empty((9, 9, 3), np.uint8)
    square[:] = [int(255 * m) for m in processor.image_mean]
    square[2:6] = np.asarray(image(9, 4))
    assert torch.equal(pixels, normalised(processor, resize_pixels(square, Resize(SIDE, SIDE))[None]))


@pytest.mark.parametrize("config", [SimpleNamespace(), SimpleNamespace(image_aspect_ratio="square")])
def test_other_images_are_cropped_as_frames_are(processor, config):
    expected = resize_pixels(np.asarray(image(50, 40)), Resize(SIDE, SIDE, mode="crop"))
    made = process_images([image(50, 40), image(50, 40).convert("RGBA")], processor, config)
    assert torch.equal(made, normalised(processor, np.stack([expected, expected])))


@pytest.mark.parametrize(
    ("images", "config", "message"),
    [
        ([], {}, "no images given"),
        ([image(3, 3)], {"image_aspect_ratio": "highres"}, "'highres' is not supported; allowed: anyres, anyres_max"),
        ([np.zeros((3, 3, 3), np.uint8)], {}, "images must be Pillow images, got ndarray"),
        ([image(3, 3)], {"image_aspect_ratio": "anyres", "image_grid_pinpoints": "[]"}, "is empty"),
        ([image(3, 3)], {"image_aspect_ratio": "anyres"}, "image_grid_pinpoints must be pairs of pixels .* got None"),
    ],
)
def test_images_that_cannot_be_processed_are_refused(processor, images, config, message):
    with pytest.raises(ValueError, match=message):
        process_images(images, processor, SimpleNamespace(**config))
