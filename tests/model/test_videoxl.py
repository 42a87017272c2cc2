"""The model as a module of its own: which inputs it takes, and which it refuses."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

TEXT = 7
"""An id that stands for no picture."""


def prompt(model, *, tokens: int, token_id: int | None = None, text: int = 3) -> torch.Tensor:
    token_id = model.config.video_token_id if token_id is None else token_id
    return torch.tensor([[TEXT] * text + [token_id] * tokens + [TEXT] * text])


def frames(model, count: int, seed: int = 0) -> torch.Tensor:
    size = model.config.image_size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def video(model, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    per_group = model.config.tokens_per_group
    groups = -(-count // model.config.frames_per_group)
    return {
        "input_ids": prompt(model, tokens=groups * per_group),
        "pixel_values_videos": frames(model, count, seed),
        "frames_per_video": torch.tensor([count]),
    }


@pytest.fixture(params=["tiny", "tiny_v1"])
def model(request):
    return request.getfixturevalue(request.param).model


@pytest.mark.parametrize("name", ["video_token_id", "image_token_id"])
def test_placeholders_without_pictures_are_refused(model, name):
    ids = prompt(model, tokens=5, token_id=getattr(model.config, name))
    for call in (model, model.model, lambda ids: model(ids, labels=ids), lambda ids: model.generate(ids)):
        with pytest.raises(ValueError, match=r"the prompt has 5 placeholders \(id \d+\) without pictures"):
            call(ids)


def test_an_empty_cache_excuses_no_placeholder(model):
    with pytest.raises(ValueError, match="without pictures"):
        model(prompt(model, tokens=2), past_key_values=DynamicCache(), use_cache=True)


def test_a_placeholder_in_one_row_of_a_batch_is_found(model):
    ids = prompt(model, tokens=1)
    with pytest.raises(ValueError, match=r"1 placeholders"):
        model(torch.cat([torch.full_like(ids, TEXT), ids]))


def test_a_video_excuses_no_placeholder_of_an_image(tiny):
    model = tiny.model
    inputs = video(model, 4)
    image = torch.tensor([[model.config.image_token_id]])
    with pytest.raises(ValueError, match=r"1 placeholders .* without pictures"):
        model(**inputs | {"input_ids": torch.cat([inputs["input_ids"], image], dim=1)})


@pytest.mark.parametrize("change", [-1, 1])
def test_as_many_placeholders_as_tokens_are_needed(model, change):
    inputs = video(model, 4)
    wrong = prompt(model, tokens=int((inputs["input_ids"] != TEXT).sum()) + change)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=r"placeholders .* for .* visual tokens of the videos"):
            call(**inputs | {"input_ids": wrong})


def test_pictures_need_ids_to_stand_at(model):
    inputs = video(model, 4)
    embeds = model.get_input_embeddings()(torch.full_like(inputs.pop("input_ids"), TEXT))
    with pytest.raises(ValueError, match="give input_ids with them"):
        model(inputs_embeds=embeds, **inputs)


def test_a_generated_placeholder_shows_nothing_and_is_read_on(tiny):
    """A model may say the id of a placeholder; behind a cache it is a token as any other."""
    model, inputs = tiny.model, video(tiny.model, 4)
    with torch.no_grad():
        out = model(**inputs, use_cache=True)
        said = torch.tensor([[model.config.video_token_id] * 2])
        more = model(said, past_key_values=out.past_key_values)
    assert more.logits.shape[1] == 2


def test_every_generated_token_may_be_a_placeholder(tiny):
    model, inputs = tiny.model, video(tiny.model, 4)
    settings = {"do_sample": False, "max_new_tokens": 3, "suppress_tokens": None, "eos_token_id": None}
    only = [[i for i in range(model.config.get_text_config().vocab_size) if i != model.config.video_token_id]]
    out = model.generate(**inputs, **settings | {"suppress_tokens": only[0]})
    assert out[0, -3:].tolist() == [model.config.video_token_id] * 3


def test_generating_without_a_cache_sees_the_video_at_every_step(tiny):
    model, inputs = tiny.model, video(tiny.model, 4)
    settings = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": None}
    kept, again = (model.generate(**inputs, **settings, use_cache=use) for use in (True, False))
    assert kept.tolist() == again.tolist()
