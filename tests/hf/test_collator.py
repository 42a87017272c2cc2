"""Collators for trainers of others: the videos are read, and only what assistants say is learned."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tests import media
from videoxl.hf.collator import VideoXLDataCollator, VideoXLPreferenceCollator
from videoxl.hf.processing import VideoXLProcessor

TEXT = {"type": "text", "text": "What moves?"}
ANSWER = {"role": "assistant", "content": "A red star."}


@pytest.fixture(scope="module")
def processor(tiny):
    return VideoXLProcessor.from_config(tiny.config, tiny.tokenizer)


@pytest.fixture(scope="module")
def collate(processor):
    return VideoXLDataCollator(processor, max_frames=8)


def asked(*parts: dict) -> dict:
    return {"role": "user", "content": [*parts, TEXT]}


@pytest.fixture
def part(clip):
    return {"type": "video", "path": str(clip)}


def learned(tiny, batch, row=0) -> str:
    return tiny.tokenizer.decode(batch["labels"][row][batch["labels"][row] != -100])


def test_only_what_assistants_say_is_learned(tiny, part, collate):
    more = [{"role": "user", "content": "And then?"}, {"role": "assistant", "content": "Nothing."}]
    batch = collate([{"messages": [asked(part), ANSWER, *more]}])
    assert learned(tiny, batch) == "A red star.<|im_end|>Nothing.<|im_end|>"
    live = batch["labels"] != -100
    assert torch.equal(batch["labels"][live], batch["input_ids"][live])
    assert batch["frames_per_video"].tolist() == [8]


def test_a_row_is_the_prompt_of_the_processor_and_the_answer(tiny, part, collate, processor):
    prompt = processor.apply_chat_template(
        [asked(part)], tokenize=True, return_dict=True, add_generation_prompt=True, processor_kwargs={"max_frames": 8}
    )["input_ids"][0]
    answer = tiny.tokenizer.encode("A red star.<|im_end|>", add_special_tokens=False)
    row = collate([{"messages": [asked(part), ANSWER]}])["input_ids"][0].tolist()
    assert row[: len(prompt) + len(answer)] == [*prompt, *answer]


def test_a_batch_is_padded_on_the_right_and_each_row_is_as_alone(tiny, part, collate):
    short = {"messages": [{"role": "user", "content": "Hello"}, ANSWER]}
    long = {"messages": [asked(part), ANSWER]}
    both = collate([short, long])
    alone = collate([short])["input_ids"][0]
    assert torch.equal(both["input_ids"][0][both["attention_mask"][0].bool()], alone)
    assert both["attention_mask"][0, len(alone) :].sum() == 0
    assert learned(tiny, both, 0) == learned(tiny, both, 1) == "A red star.<|im_end|>"
    assert torch.isfinite(tiny.model(**both).loss)


def test_the_loss_depends_on_the_video(tiny, part, collate, tmp_path):
    other = media.write_video(tmp_path / "b.mp4", pictures=(media.numbered(3000 + 7 * n) for n in range(50)), fps=5)
    losses = [
        float(tiny.model(**collate([{"messages": [asked({**part, "path": str(path)}), ANSWER]}])).loss)
        for path in (part["path"], other)
    ]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_media_may_stand_in_columns(part, collate, tmp_path):
    Image.fromarray(media.numbered(5, 64, 48)).save(tmp_path / "a.png")
    path, still = part["path"], str(tmp_path / "a.png")
    wanted = collate([{"messages": [asked(part), ANSWER]}])
    plain = {"role": "user", "content": "What moves?"}
    for record in (
        {"messages": [asked({"type": "video"}), ANSWER], "videos": [path]},
        {"messages": [asked({"type": "video", "path": None}), ANSWER], "videos": [path], "images": None},
        {"messages": [plain, ANSWER], "videos": [path]},
        {"messages": [plain, ANSWER], "video": path},
        {"prompt": [plain], "completion": [ANSWER], "videos": [path]},
        {"prompt": [asked(part)], "completion": [ANSWER]},
    ):
        batch = collate([record])
        assert torch.equal(batch["input_ids"], wanted["input_ids"])
        assert torch.equal(batch["labels"], wanted["labels"])
        assert torch.equal(batch["pixel_values_videos"], wanted["pixel_values_videos"])
    mixed = collate(
        [{"messages": [asked({"type": "image"}, {"type": "video"}), ANSWER], "videos": [path], "image": still}]
    )
    assert mixed["frames_per_video"].tolist() == [1, 8]


def test_only_the_completion_of_a_prompt_is_learned(tiny, collate):
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    batch = collate([{"prompt": [*earlier, {"role": "user", "content": "And?"}], "completion": [ANSWER]}])
    assert learned(tiny, batch) == "A red star.<|im_end|>"
    assert learned(tiny, collate([{"prompt": "And?", "completion": [ANSWER]}])) == "A red star.<|im_end|>"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"messages": None}, "must be a list"),
        ({"messages": []}, "must be a list of messages and not empty"),
        ({"messages": [asked()]}, "no turn of an assistant"),
        ({"messages": [ANSWER]}, "an assistant speaks before any user"),
        ({"messages": [asked({"type": "video"}), ANSWER]}, "must give the video under one of"),
        ({"messages": [asked({"type": "video"}), ANSWER], "videos": ["a", "b"]}, "1 videos have no place"),
        ({"messages": [asked({"type": "vidoe", "path": "a"}), ANSWER]}, "has type 'vidoe'; did you mean video"),
        ({"messages": [asked(), ANSWER], "video_path": "a.mp4"}, "video_path is not read"),
        ({"messages": [asked(), ANSWER], "tools": [1]}, "tools is not read"),
        ({"messages": [asked({"type": "text", "text": "<|vision_pad|>"}), ANSWER]}, "1 video tokens .* for 0 videos"),
        ({"messages": [asked(), {"role": "assistant", "content": "<|image_pad|>"}]}, "1 image tokens .* for 0 images"),
        ({"conversations": [asked(), ANSWER]}, "it must have messages, or prompt and completion, got conversations"),
        ({"prompt": [asked()]}, "it must have messages, or prompt and completion"),
        ({"text": "hello"}, "it must have messages"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_records_that_cannot_be_used_are_named(collate, change, reason):
    good = {"messages": [asked(), ANSWER]}
    with pytest.raises(ValueError, match=rf"^record 1 of the batch: .*{reason}"):
        collate([good, change])


def test_settings_are_checked_at_once(processor):
    for kind in (VideoXLDataCollator, VideoXLPreferenceCollator):
        with pytest.raises(ValueError, match="the collator does not know 'fsp'; did you mean fps"):
            kind(processor, fsp=1)


def test_long_rows_are_cut_with_a_warning_or_refused(tiny, part, processor):
    record = {"messages": [asked(part), {"role": "assistant", "content": "long " * 50}]}
    whole = VideoXLDataCollator(processor, max_frames=8)([record])["input_ids"].shape[1]
    with pytest.warns(UserWarning, match=r"max_length=.* cuts 20 tokens of a record"):
        assert (
            VideoXLDataCollator(processor, max_length=whole - 20, max_frames=8)([record])["input_ids"].shape[1]
            == whole - 20
        )
    with pytest.raises(ValueError, match="max_length=10 leaves none of its answers"):
        VideoXLDataCollator(processor, max_length=10, max_frames=8)([record])


def test_preferences(tiny, part, processor):
    collate = VideoXLPreferenceCollator(processor, max_frames=8)
    records = [
        {"prompt": [asked(part)], "chosen": [ANSWER], "rejected": "No.", "images": []},
        {"prompt": "Hello", "chosen": "Hi.", "rejected": [{"role": "assistant", "content": "Go."}]},
    ]
    batch = collate(records)
    said = [tiny.tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(batch["input_ids"], batch["completion_mask"])]
    assert said == ["A red star.<|im_end|>", "Hi.<|im_end|>", "No.<|im_end|>", "Go.<|im_end|>"]
    assert batch["frames_per_video"].tolist() == [8, 8]
    masks = {"attention_mask", "completion_mask"}
    assert batch.keys() == {"input_ids", "pixel_values_videos", "frames_per_video"} | masks
    with pytest.raises(ValueError, match="record 0 of the batch: it has no rejected"):
        collate([{"prompt": "a", "chosen": "b"}])
