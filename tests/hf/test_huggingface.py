"""AutoProcessor, chat template and ``model.generate``: the same tokens as the engine."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import videoxl
from tests import media
from videoxl.hf.processing import VideoXLProcessor
from videoxl.hf.video_processing import VideoXLVideoProcessor

QUESTION = "What happens?"


@pytest.fixture(scope="module")
def processor(tiny_folder):
    return AutoProcessor.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def second_clip(tmp_path_factory):
    pictures = (media.numbered(900 + 31 * i, 80, 64) for i in range(13))
    return media.write_video(tmp_path_factory.mktemp("second") / "b.mp4", pictures=pictures, size=(80, 64), fps=1)


def messages(video, question: str = QUESTION) -> list[dict]:
    return [{"role": "user", "content": [{"type": "video", "path": str(video)}, {"type": "text", "text": question}]}]


def prompt(processor, question: str = QUESTION) -> str:
    return processor.apply_chat_template(messages("unused", question), add_generation_prompt=True, tokenize=False)


def test_a_prompt_has_the_layout_of_the_engine(tiny, clip, processor):
    inputs = processor(text=prompt(processor), videos=[str(clip)], return_tensors="pt")
    memory = tiny.encode(clip)
    assert inputs["input_ids"][0].tolist() == [*memory.token_ids, *tiny.chat_format.suffix(QUESTION)]
    assert inputs["frames_per_video"].tolist() == [8]
    assert inputs["pixel_values_videos"].shape == (8, 3, 96, 96)


@pytest.mark.parametrize(
    "settings", [{}, {"fps": 2.0}, {"num_frames": 6}, {"max_frames": 5}, {"start": 2, "end": 7}], ids=str
)
def test_processor_and_generate_give_the_tokens_of_the_engine(tiny, clip, processor, settings):
    inputs = processor(text=prompt(processor), videos=[str(clip)], return_tensors="pt", **settings)
    out = tiny.model.generate(**inputs, max_new_tokens=10, do_sample=False)
    asked = tiny.ask(tiny.encode(clip, **settings), QUESTION, max_new_tokens=10)
    assert tuple(out[0, inputs["input_ids"].shape[1] :].tolist()) == asked.token_ids


def test_the_chat_template_reads_the_video_itself(tiny, clip, processor):
    inputs = processor.apply_chat_template(
        messages(clip), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    memory = tiny.encode(clip)
    assert inputs["input_ids"][0].tolist() == [*memory.token_ids, *tiny.chat_format.suffix(QUESTION)]


def test_the_saved_model_through_the_auto_class(tiny, clip, tiny_folder, processor):
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder, dtype=torch.float32)
    inputs = processor(text=prompt(processor), videos=[str(clip)], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    asked = tiny.ask(tiny.encode(clip), QUESTION, max_new_tokens=10)
    assert processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip() == asked.text


def test_a_batch_of_two_videos_equals_two_single_runs(tiny, clip, second_clip, processor):
    questions, clips = [QUESTION, "And what do you see in this other one?"], [str(clip), str(second_clip)]
    singles = []
    for question, video in zip(questions, clips):
        inputs = processor(text=prompt(processor, question), videos=[video], return_tensors="pt")
        out = tiny.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        singles.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    inputs = processor(text=[prompt(processor, q) for q in questions], videos=clips, return_tensors="pt")
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
    assert inputs["attention_mask"].sum(1).min() < inputs["input_ids"].shape[1]
    out = tiny.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert out[:, inputs["input_ids"].shape[1] :].tolist() == singles


def test_two_videos_in_one_prompt_are_both_seen(tiny, clip, second_clip, processor):
    text = prompt(processor).replace("<|vision_pad|>", "<|vision_pad|> and <|vision_pad|>")
    both = processor(text=text, videos=[str(clip), str(second_clip)], return_tensors="pt")
    swapped = processor(text=text, videos=[str(second_clip), str(clip)], return_tensors="pt")
    with torch.no_grad():
        a, b = (tiny.model(**i, logits_to_keep=1).logits for i in (both, swapped))
    assert both["frames_per_video"].tolist() == [8, 12]
    assert not torch.allclose(a, b, atol=0.1)


def test_arrays_are_videos_too(tiny, processor):
    pictures = np.stack([media.numbered(i, 64, 48) for i in range(6)])
    inputs = processor(text=prompt(processor), videos=[pictures], fps=2, return_tensors="pt")
    memory = tiny.encode(pictures, fps=2)
    assert inputs["input_ids"][0].tolist()[: len(memory.token_ids)] == list(memory.token_ids)
    assert inputs["pixel_values_videos"].shape[0] == 6


def test_text_alone_needs_no_video(tiny, processor):
    inputs = processor(text="<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")
    assert "pixel_values_videos" not in inputs
    assert tiny.model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize(
    ("text", "videos"), [("<|vision_pad|>", []), ("no place", ["clip"]), ("<|vision_pad|>" * 2, ["clip"])]
)
def test_places_and_videos_must_match(clip, processor, text, videos):
    with pytest.raises(ValueError, match=rf"the text has {text.count('<')} video tokens .* for {len(videos)} videos"):
        processor(text=text, videos=[str(clip) for _ in videos])


def test_a_missing_text_is_refused(clip, processor):
    with pytest.raises(ValueError, match="text is missing"):
        processor(videos=[str(clip)])


def test_a_processor_survives_saving(tiny, tiny_folder, processor, tmp_path):
    processor.save_pretrained(tmp_path / "again")
    again = AutoProcessor.from_pretrained(tmp_path / "again")
    for made in (processor, again):
        assert type(made) is VideoXLProcessor
        assert type(made.video_processor) is VideoXLVideoProcessor
        assert made.tokens_per_group == tiny.config.tokens_per_group
        assert dict(made.video_processor.size) == {"height": 96, "width": 96}
        assert made.video_processor.frames_per_group == 4
        assert made.video_token_id == tiny.config.video_token_id


def test_a_folder_without_processor_files_gets_one_from_its_config(tiny, clip, tiny_folder, tmp_path, processor):
    bare = shutil.copytree(tiny_folder, tmp_path / "bare")
    for name in (
        "processor_config.json",
        "video_preprocessor_config.json",
        "preprocessor_config.json",
        "chat_template.jinja",
    ):
        (bare / name).unlink(missing_ok=True)
    made = AutoProcessor.from_pretrained(bare)
    wanted, got = (p(text=prompt(p), videos=[str(clip)], return_tensors="pt") for p in (processor, made))
    assert torch.equal(wanted["input_ids"], got["input_ids"])
    assert torch.equal(wanted["pixel_values_videos"], got["pixel_values_videos"])


def test_the_pipeline_answers(tiny, clip, tiny_folder, processor):
    from transformers import pipeline

    answer = pipeline("image-text-to-text", model=tiny.model, processor=processor)
    (made,) = answer(text=messages(clip), max_new_tokens=10, do_sample=False, return_full_text=False)
    assert made["generated_text"].strip() == tiny.ask(tiny.encode(clip), QUESTION, max_new_tokens=10).text


def test_the_pipeline_for_any_input_answers_alike(tiny, clip, tiny_folder, processor):
    auto = getattr(transformers, "AutoModelForMultimodalLM", None)
    if auto is None:
        pytest.skip(f"transformers {transformers.__version__} has no AutoModelForMultimodalLM")
    assert isinstance(auto.from_pretrained(tiny_folder), type(tiny.model))
    content = [{"type": "video", "url": Path(clip).as_uri(), "fps": 1}, {"type": "text", "text": "What is shown?"}]
    messages = [{"role": "user", "content": content}]
    answer = transformers.pipeline("any-to-any", model=tiny.model, processor=processor)
    said = answer(text=messages, max_new_tokens=4, return_full_text=False)[0]["generated_text"]
    other = transformers.pipeline("image-text-to-text", model=tiny.model, processor=processor)
    assert said == other(text=messages, max_new_tokens=4, return_full_text=False)[0]["generated_text"]
    asked = tiny.answer(clip, "What is shown?", fps=1, prefill="full", max_new_tokens=4)
    assert said.strip() == asked.text


def test_the_image_processor_reads_as_the_processor(tiny_v1, tiny_folder, processor, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    images = transformers.AutoImageProcessor.from_pretrained(tiny_folder)
    read = images([picture, picture], return_tensors="pt")
    whole = processor(text="<|image_pad|>\nWhat?", images=[picture], return_tensors="pt")
    assert read["pixel_values"].shape[0] == 2
    assert torch.equal(read["pixel_values"][:1], whole["pixel_values_videos"])
    own = VideoXLProcessor.from_config(tiny_v1.config, tiny_v1.tokenizer)
    tiny_v1.config.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    crops = transformers.AutoImageProcessor.from_pretrained(tmp_path)(picture)
    wanted = own(text="<|image_pad|>\nWhat?", images=[picture])
    assert len(wanted["pixel_values"]) > 1
    assert torch.equal(crops["pixel_values"], wanted["pixel_values"])
    with pytest.raises(ValueError, match="does not read 'size'"):
        images(picture, size=3)


def test_a_training_step_sees_the_video(tiny, clip, processor):
    model = copy.deepcopy(tiny.model).train()
    inputs = processor(text=prompt(processor), videos=[str(clip)], return_tensors="pt")
    labels = inputs["input_ids"].clone()
    labels[inputs["input_ids"] == tiny.config.video_token_id] = -100
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    weight = model.model.vision_tower.embeddings.patch_embedding.weight
    assert torch.isfinite(loss)
    assert float(weight.grad.abs().max()) > 0


def test_a_model_asked_for_the_wrong_family_is_told(tiny):
    from videoxl.model.families import require

    with pytest.raises(videoxl.CheckpointError, match="needs a model of video-xl, got video-xl-2"):
        require(tiny.config.family, lambda family: family.beacons)
