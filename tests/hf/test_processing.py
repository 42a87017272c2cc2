"""The processor honours what a call or a part of a message says, or refuses it: nothing gets lost on the way."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from tests import media
from videoxl.errors import DoesNotFitError
from videoxl.hf.processing import VideoXLProcessor
from videoxl.inference.loading import embedded_folder

QUESTION = "What happens?"
TEXT = {"type": "text", "text": QUESTION}
TENSORS = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}


@pytest.fixture(scope="module")
def processor(tiny_folder):
    return AutoProcessor.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def processor_v1(tiny_v1):
    return VideoXLProcessor.from_config(tiny_v1.config, tiny_v1.tokenizer)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    path = tmp_path_factory.mktemp("still") / "still.png"
    Image.fromarray(media.numbered(1234, 80, 64)).save(path)
    return str(path)


def asked(*parts: dict) -> list[dict]:
    return [{"role": "user", "content": [*parts, TEXT]}]


def ids(tiny, memory) -> list[int]:
    return [*memory.token_ids, *tiny.chat_format.suffix(QUESTION)]


@pytest.mark.parametrize(
    ("own", "settings"),
    [
        ({}, {}),
        ({"fps": 2}, {"fps": 2}),
        ({"num_frames": 8}, {"num_frames": 8}),
        ({"nframes": 4}, {"num_frames": 4}),
        ({"max_frames": 4}, {"max_frames": 4}),
        ({"video_start": 2, "video_end": 7}, {"start": 2, "end": 7}),
        ({"start": 2.5, "fps": 1.5}, {"start": 2.5, "fps": 1.5}),
        ({"min_frames": 16}, {"num_frames": 16}),  # one a second would be 10
        ({"min_frames": 4}, {}),
        ({"fps": 1, "max_fps": 4, "max_frames": 32}, {"fps": 1, "max_fps": 4, "max_frames": 32}),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["part", "processor_kwargs", "videos_kwargs", "call"])
def test_sampling_settings_are_honoured_wherever_they_stand(tiny, clip, processor, own, settings, where):
    part = {"type": "video", "path": str(clip)}
    given = {
        "part": {},
        "processor_kwargs": {"processor_kwargs": own},
        "videos_kwargs": {"processor_kwargs": {"videos_kwargs": own}},
        "call": own,
    }[where]
    inputs = processor.apply_chat_template(asked(part | own if where == "part" else part), **TENSORS, **given)
    memory = tiny.encode(clip, **settings)
    assert inputs["input_ids"][0].tolist() == ids(tiny, memory)
    assert inputs["frames_per_video"].tolist() == [len(memory.timestamps)]


def test_every_video_of_a_batch_has_its_own_settings(tiny, clip, processor):
    path = str(clip)
    first = asked({"type": "video", "path": path, "num_frames": 4}, {"type": "video", "path": path})
    second = asked({"type": "video", "path": path, "video_start": 6})
    inputs = processor.apply_chat_template([first, second], **TENSORS, processor_kwargs={"fps": 2})
    assert inputs["frames_per_video"].tolist() == [4, 24, 8]
    alone = [
        processor.apply_chat_template(one, **TENSORS, processor_kwargs={"fps": 2})["input_ids"][0].tolist()
        for one in (first, second)
    ]
    rows = [row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"])]
    assert rows == alone


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"fsp": 1}, "the processor does not know 'fsp'; did you mean fps"),
        ({"nframe": 8}, "did you mean nframes"),
        ({"size": {"height": 10}}, "does not know 'size'"),
        ({"do_resize": False}, "does not know 'do_resize'"),
        ({"max_length": 10}, "does not know 'max_length'"),
        ({"truncation": True}, "cannot honour truncation=True"),
        ({"padding": "max_length"}, "cannot honour padding='max_length'"),
        ({"padding": False}, "cannot honour padding=False"),
        ({"do_sample_frames": False}, "cannot honour do_sample_frames=False"),
        ({"padding_side": "top"}, "padding_side must be left or right"),
        ({"videos_kwargs": {"fsp": 1}}, "did you mean fps"),
        ({"text_kwargs": {"truncation": True}}, "cannot honour truncation"),
        ({"num_frames": 4, "nframes": 5}, "under two names"),
        ({"num_frames": 4, "fps": 5}, "cannot be combined"),
        ({"fps": "two"}, "fps must be"),
        ({"fps": -1}, "fps must be"),
        ({"audio": "a.wav"}, "does not know 'audio'"),
    ],
    ids=str,
)
def test_settings_that_nothing_reads_are_refused(clip, processor, settings, reason):
    part = {"type": "video", "path": str(clip)}
    with pytest.raises(ValueError, match=reason):
        processor.apply_chat_template(asked(part), **TENSORS, processor_kwargs=settings)
    with pytest.raises(ValueError, match=reason):
        processor(text="<|vision_pad|>", videos=[str(clip)], **settings)
    if "fps must" not in reason and "combined" not in reason:
        with pytest.raises(ValueError, match=reason):
            processor.apply_chat_template(asked(part), processor_kwargs=settings)
    if not {*settings} & {"videos_kwargs", "text_kwargs", "padding_side", "truncation", "padding", "do_sample_frames"}:
        with pytest.raises(ValueError, match=reason.replace("the processor does", "the video processor does")):
            processor.video_processor(str(clip), **settings)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("tools", [{"name": "f"}]),
        ("documents", [{"text": "a"}]),
        ("load_audio_from_video", True),
        ("return_assistant_tokens_mask", True),
        ("sanitize_control_tokens", True),
    ],
)
def test_arguments_of_a_template_that_nothing_reads_are_refused(clip, processor, argument, value):
    with pytest.raises(ValueError, match=f"apply_chat_template does not read {argument}"):
        processor.apply_chat_template(asked({"type": "video", "path": str(clip)}), **TENSORS, **{argument: value})
    processor.apply_chat_template(asked(), **{argument: None})


def test_what_happens_anyway_may_be_asked_for(clip, processor):
    settings = {"padding": True, "truncation": False, "add_special_tokens": False, "do_sample_frames": True}
    plain, more = (
        processor(text="<|vision_pad|> hm", videos=[str(clip)], return_tensors="pt", **given)
        for given in ({}, settings)
    )
    assert all(torch.equal(plain[name], more[name]) for name in plain)


@pytest.mark.parametrize(("side", "expected"), [("left", [0, 1]), ("right", [1, 0])])
def test_the_side_of_padding(processor, side, expected):
    inputs = processor(text=["a", "a much longer text"], padding_side=side, return_tensors="pt")
    assert inputs["attention_mask"][0, [0, -1]].tolist() == expected


def test_a_template_of_the_caller_gets_its_variables(processor):
    template = "{{ tone }}{% for m in messages %}{% for p in m.content %}{{ p.type }} {% endfor %}{% endfor %}"
    messages = asked({"type": "video", "path": "a.mp4"})
    assert processor.apply_chat_template(messages, template, tone="Hm: ") == "Hm: video text "
    with pytest.raises(ValueError, match="does not know 'tome'"):
        processor.apply_chat_template(messages, template, tome="Hm: ")


def test_settings_of_generate_are_said_to_do_nothing(processor):
    with pytest.warns(UserWarning, match="max_new_tokens is a setting of generate"):
        processor.apply_chat_template(asked(), max_new_tokens=3)


@pytest.mark.parametrize("token", ["<|vision_pad|>", "<|image_pad|>"])
def test_a_token_in_a_text_is_no_place_of_a_video(clip, processor, token):
    messages = asked({"type": "video", "path": str(clip)}, {"type": "text", "text": f"about {token}"})
    with pytest.raises(ValueError, match=r"the text has \d \w+ tokens .* for \d \w+s"):
        processor.apply_chat_template(messages, **TENSORS)


def test_too_few_frames_for_the_last_group_are_said(clip, processor):
    with pytest.warns(UserWarning, match="the last 2 of 6 frames do not fill a group of 4 and are left out"):
        inputs = processor(text="<|vision_pad|>", videos=[str(clip)], num_frames=6)
    assert inputs["frames_per_video"].tolist() == [4]


def test_an_image_is_read_as_the_engine_reads_it(tiny, still, processor):
    inputs = processor.apply_chat_template(asked({"type": "image", "path": still}), **TENSORS)
    memory = tiny.encode(still)
    assert inputs["input_ids"][0].tolist() == ids(tiny, memory)
    out = tiny.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    asked_ = tiny.ask(memory, QUESTION, max_new_tokens=6)
    assert tuple(out[0, inputs["input_ids"].shape[1] :].tolist()) == asked_.token_ids


@pytest.mark.parametrize("kind", ["image", "video"])
def test_video_xl_reads_a_still_in_crops(tiny_v1, still, processor_v1, kind):
    inputs = processor_v1.apply_chat_template(asked({"type": kind, "path": still}), **TENSORS)
    memory = tiny_v1.encode(still)
    assert inputs["crops_per_image"].tolist() == [len(inputs["pixel_values"])]
    out = tiny_v1.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    answer = tiny_v1.ask(memory, QUESTION, max_new_tokens=6)
    assert tuple(out[0, inputs["input_ids"].shape[1] :].tolist()) == answer.token_ids


def test_images_and_videos_keep_their_places(tiny, clip, still, processor):
    image, video = {"type": "image", "path": still}, {"type": "video", "path": str(clip), "num_frames": 4}
    inputs = processor.apply_chat_template([asked(image, video), asked(video, image)], **TENSORS)
    assert inputs["frames_per_video"].tolist() == [1, 4, 4, 1]
    first, second = inputs["pixel_values_videos"].split([5, 5])
    assert torch.equal(first[0], second[4])
    assert torch.equal(first[1:], second[:4])
    assert tiny.model(**inputs, logits_to_keep=1).logits.shape[:2] == (2, 1)


def test_images_can_be_given_beside_the_text(still, processor):
    inputs = processor(text="<|image_pad|> what?", images=[still], return_tensors="pt")
    assert inputs["frames_per_video"].tolist() == [1]
    for images in ([], [still, still]):
        with pytest.raises(ValueError, match=rf"the text has 1 image tokens .* for {len(images)} images"):
            processor(text="<|image_pad|> what?", images=images)


def test_a_video_is_no_image(clip, processor):
    with pytest.raises(ValueError, match="is a video and was given as an image"):
        processor.apply_chat_template(asked({"type": "image", "path": str(clip)}), **TENSORS)


def test_a_saved_processor_reads_images(still, processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = VideoXLProcessor.from_pretrained(tmp_path)
    one, two = (p.apply_chat_template(asked({"type": "image", "path": still}), **TENSORS) for p in (processor, again))
    assert again.stills == processor.stills
    assert torch.equal(one["input_ids"], two["input_ids"])


def test_the_files_of_older_processors_still_read_images(still):
    old = VideoXLProcessor.from_pretrained(str(embedded_folder("tiny")))
    assert old.apply_chat_template(asked({"type": "image", "path": still}), **TENSORS)["frames_per_video"].tolist() == [
        1
    ]


def test_a_processor_that_knows_no_images_says_so(tiny, still):
    bare = VideoXLProcessor(VideoXLProcessor.from_config(tiny.config, tiny.tokenizer).video_processor, tiny.tokenizer)
    with pytest.raises(ValueError, match="cannot say how the model reads images"):
        bare.apply_chat_template(asked({"type": "image", "path": still}), **TENSORS)


def test_a_misspelt_setting_of_the_processor_itself_is_refused(tiny):
    with pytest.raises(ValueError, match="the processor does not know 'tokens_per_gruop'"):
        VideoXLProcessor(tokenizer=tiny.tokenizer, tokens_per_gruop=4)


@pytest.mark.parametrize("number", [10**6 + 1, 10**400])
def test_more_frames_than_anybody_can_read_are_refused(clip, processor, number):
    part = {"type": "video", "path": str(clip), "num_frames": number}
    with pytest.raises(ValueError, match="num_frames must be at most 1,000,000"):
        processor.apply_chat_template(asked(part), **TENSORS)


@pytest.mark.parametrize("settings", [{"num_frames": 10**6}, {"min_frames": 10**6}])
def test_frames_that_do_not_fit_into_memory_are_refused(clip, processor, monkeypatch, settings):
    monkeypatch.setattr("videoxl.hf.video_processing.free_host_bytes", lambda: 10**9)
    with pytest.raises(DoesNotFitError, match=r"1,000,000 frames need .* GB as pixels, 1.00 GB are free: read at most"):
        processor.apply_chat_template(asked({"type": "video", "path": str(clip), **settings}), **TENSORS)


@pytest.mark.parametrize("text", ["<video>\nWhat?", "<image>What?", "<|video_pad|>What?", "<IMG>", "<image_1>"])
def test_what_looks_like_a_video_in_a_text_is_said_to_show_nothing(processor, text):
    with pytest.warns(UserWarning, match="which shows nothing: a video is a part of a message"):
        processor.apply_chat_template([{"role": "user", "content": text}], **TENSORS)


def test_half_a_character_in_a_prompt_is_refused(processor):
    with pytest.raises(ValueError, match="the text holds half a character"):
        processor("a\ud800")
