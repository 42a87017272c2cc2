"""Pixels to visual tokens against the plain statement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.model import reference
from tests.model.builders import difference, gradient_difference, noise, small_model
from videoxl.model.vision import normalize_pixels, patch_features, resize_grid

TOLERANCE = 1e-5  # of the largest value; measured worst in this file: 1.3e-6


@pytest.fixture(scope="module")
def model():
    return small_model().requires_grad_(False)


def test_the_tower_gives_the_hidden_state_before_the_final_norm(model):
    tower, pixels = model.model.vision_tower, noise(3, 3, 28, 28)
    hidden = reference.vision_hidden_states(tower, pixels)[-1]
    assert difference(patch_features(tower, pixels), hidden) < TOLERANCE
    assert difference(tower(pixels).last_hidden_state, hidden) > 0.01


def test_power_one_layer_more_or_less_shows(model):
    tower, pixels = model.model.vision_tower, noise(3, 3, 28, 28)
    states = reference.vision_hidden_states(tower, pixels)
    assert difference(patch_features(tower, pixels), states[-2]) > 0.05


@pytest.mark.parametrize(("patches", "side"), [(7, 6), (27, 24), (5, 8), (4, 4)])
def test_the_grid_is_resampled_as_released(patches, side):
    x = noise(2, patches * patches, 12)
    grid = x.transpose(1, 2).unflatten(2, (patches, patches))
    wanted = torch.nn.functional.interpolate(grid, (side, side), mode="bilinear", align_corners=False)
    assert difference(resize_grid(x, side), wanted.flatten(2).transpose(1, 2)) < TOLERANCE


def test_the_grid_is_resampled_in_float32():
    x = noise(2, 49, 12).bfloat16()
    assert torch.equal(resize_grid(x, 6), resize_grid(x.float(), 6).bfloat16())


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 8, 18])
def test_a_video_of_any_length_like_the_reference(model, frames):
    pixels = noise(frames, 3, 28, 28)
    assert difference(model.model.encode_frames(pixels), reference.encode_frames(model.model, pixels)) < TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        {"frames_per_group": 2},
        {"frames_per_group": 8},
        {"pool_mode": "max"},
        {"token_grid": 7},
        {"pool_stride": 3},
        {"vision": {"hidden_size": 96}},
    ],
    ids=str,
)
def test_other_settings_like_the_reference(changes):
    other = small_model(**changes).requires_grad_(False)
    pixels = noise(9, 3, 28, 28)
    assert difference(other.model.encode_frames(pixels), reference.encode_frames(other.model, pixels)) < TOLERANCE


def test_gradients_of_pixels_and_all_weights_like_the_reference():
    model = small_model().double()
    base = model.model
    pixels = noise(5, 3, 28, 28).double().requires_grad_()
    parts = (base.vision_tower.embeddings, base.vision_tower.encoder, base.token_synthesis, base.multi_modal_projector)
    variables = [pixels, *(p for part in parts for p in part.parameters())]
    results = [base.encode_frames(pixels), reference.encode_frames(base, pixels)]
    gradients = [torch.autograd.grad(out.square().mean(), variables) for out in results]
    assert gradient_difference(*gradients) < 2e-6  # measured: 6.7e-8; resampling and one softmax are in float32


def test_bfloat16_stays_near_float32(model):
    pixels = noise(8, 3, 28, 28)
    exact = reference.encode_frames(model.model, pixels)
    half = small_model().requires_grad_(False).bfloat16().model
    assert difference(half.encode_frames(pixels.bfloat16()), exact) < 0.06  # measured: 0.0091


def test_an_unfilled_group_repeats_the_features_of_its_last_frame(model):
    pixels = noise(6, 3, 28, 28)
    filled = torch.cat([pixels, pixels[-1:], pixels[-1:]])
    assert difference(model.model.encode_frames(pixels), model.model.encode_frames(filled)) < TOLERANCE


@pytest.mark.parametrize("vision_batch", [1, 2, 3, 100])
def test_the_vision_batch_does_not_change_the_tokens(model, vision_batch):
    pixels = noise(1, 18, 3, 28, 28)
    whole = model.model.get_video_features(pixels)[0]
    assert difference(model.model.get_video_features(pixels, vision_batch=vision_batch)[0], whole) < TOLERANCE


def test_videos_in_a_row_are_told_apart_by_their_lengths(model):
    pixels = noise(9, 3, 28, 28)
    first, second = model.model.get_video_features(pixels, frames_per_video=torch.tensor([4, 5]))
    assert difference(first, model.model.encode_frames(pixels[:4])) < TOLERANCE
    assert difference(second, model.model.encode_frames(pixels[4:])) < TOLERANCE
    with pytest.raises(ValueError, match="frames_per_video"):
        model.model.get_video_features(pixels)


def test_a_still_picture_keeps_all_tokens_and_crops_are_averaged(model):
    crops, config = noise(3, 3, 28, 28), model.config
    grid = reference.grid_features(model.model.vision_tower, crops, config.token_grid).repeat_interleave(4, 0)
    merged = reference.token_synthesis(model.model.token_synthesis, reference.regroup(grid, 4))
    tokens = reference.project(model.model.multi_modal_projector, merged.flatten(2).transpose(1, 2))
    assert difference(model.model.encode_image(crops[:1]), tokens[0]) < TOLERANCE
    assert (
        difference(
            model.model.encode_image(crops), reference.pool(tokens[1:], config.token_grid, 2, "average").flatten(0, 1)
        )
        < TOLERANCE
    )


def test_pixels_are_normalised_in_float32():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 8, 32, 1).repeat(3, -1)
    ours = normalize_pixels(torch.from_numpy(pixels), (0.5, 0.4, 0.3), (0.5, 0.2, 0.1))
    wanted = (pixels.astype(np.float64) / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.2, 0.1]
    assert np.abs(ours.numpy() - wanted.transpose(0, 3, 1, 2)).max() < 1e-6  # measured: 5e-7
    with pytest.raises(ValueError, match="uint8"):
        normalize_pixels(ours, (0.5,), (0.5,))


def test_placeholders_that_do_not_match_are_refused(model):
    ids = torch.full((1, 20), model.config.video_token_id)
    with pytest.raises(ValueError, match=r"20 placeholders .* for 9 visual tokens"):
        model(input_ids=ids, pixel_values_videos=noise(1, 4, 3, 28, 28))
