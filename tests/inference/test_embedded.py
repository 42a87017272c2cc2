"""The models that the package brings along are ordinary model folders. What they answer is not tested here."""

from __future__ import annotations

import json
import shutil
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from recipes.tiny.qwen3 import qwen3_config, qwen3_processor
from recipes.tiny.sizes import model_config
from recipes.tiny.words import tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor

import videoxl
from tests.conftest import require
from videoxl.cli.convert import convert_checkpoint
from videoxl.cli.info import describe
from videoxl.config import EMBEDDED, TINY_QWEN3
from videoxl.errors import CheckpointError
from videoxl.inference.loading import embedded_folder, is_cached
from videoxl.model.checkpoint import verify_manifest
from videoxl.model.configuration import VideoXLConfig
from videoxl.world import Renderer, sample_film

QUESTION = "What is shown first?"
MARKS = ("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
"""Newer processors keep a pair of marks around the whole video, which no published prompt has."""


@pytest.fixture(scope="module", params=EMBEDDED)
def engine(request):
    return videoxl.load(request.param, device="cpu")


def test_they_compute_in_float32_on_a_cpu_unless_told_otherwise(engine):
    assert json.loads((embedded_folder(engine.name) / "config.json").read_text())["dtype"] in ("float16", "float32")
    assert engine.dtype == "float32"
    assert not engine.model.training
    assert videoxl.load(engine.name, device="cpu", dtype="bf16").dtype == "bfloat16"


def _recipe_config(words, name):
    if name != TINY_QWEN3:
        return model_config(words, name)
    with TemporaryDirectory() as folder:
        qwen3_config(words).save_pretrained(folder)
        qwen3_processor(words).save_pretrained(folder)
        return VideoXLConfig.from_pretrained(folder)


def test_they_have_the_sizes_and_words_of_their_recipe(engine):
    words = tokenizer(qwen3=engine.name == TINY_QWEN3)
    shipped, recipe = engine.config.to_dict(), _recipe_config(words, engine.name).to_dict()
    for varying in ("architectures", "dtype", "transformers_version", "_name_or_path"):
        for config in (shipped, recipe):
            for part in (config, config["text_config"], config["vision_config"]):
                part.pop(varying, None)
    assert shipped == recipe
    for text in ("<12.5 seconds>", "When is the red star shown?", "Time 1205.0s:", "<|im_start|>user\nnaïve<|im_end|>"):
        assert engine.tokenizer.encode(text) == words.encode(text)


def test_their_files_are_whole_and_small():
    assert all(verify_manifest(embedded_folder(name)) >= 5 for name in EMBEDDED)
    files = [path for name in EMBEDDED for path in embedded_folder(name).rglob("*")]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert sum(path.stat().st_size for path in embedded_folder(TINY_QWEN3).rglob("*")) <= 3e6


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no embedded model 'huge'; allowed: 'tiny' or 'tiny-v1'"):
        embedded_folder("huge")


def test_their_plans_are_exact(engine, clip):
    planned = videoxl.plan(clip, model=engine.name, device="cpu", question=QUESTION)
    memory = engine.encode(clip)
    assert (planned.frames, planned.memory_tokens) == (memory.frames, len(memory.token_ids))
    assert planned.memory_bytes == memory.nbytes
    assert planned.question_tokens == engine.ask(memory, QUESTION, max_new_tokens=1).usage.prompt_tokens
    assert planned.weight_bytes == sum(p.numel() * 4 for p in engine.model.parameters())


def test_info_says_what_they_are(engine):
    facts = describe(engine.name, verify=True)
    layout = "transformers" if engine.name == TINY_QWEN3 else "videoxl"
    assert (facts["kind"], facts["family"], facts["layout"]) == ("model", engine.config.family, layout)
    assert (facts["image_size"], facts["text_layers"]) == (48, 5)
    assert facts["verified"].endswith("agree with manifest.json")


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_they_can_be_quantised(engine, clip, kind):
    require("bitsandbytes")
    made = videoxl.load(engine.name, device="cpu", quantization=kind)
    names = [n for n, m in made.model.named_modules() if type(m).__name__ in ("Linear8bitLt", "Linear4bit")]
    assert names
    assert all(name.startswith("model.language_model.layers.") for name in names)
    assert made.ask(made.encode(clip), QUESTION, max_new_tokens=2).token_ids


def test_the_auto_classes_read_their_folders(engine, clip):
    if engine.name == TINY_QWEN3:
        check_transformers_own_class(engine)
        return
    folder = embedded_folder(engine.name)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    content = [{"type": "video", "path": str(clip)}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    asked = engine.ask(engine.encode(clip), QUESTION, max_new_tokens=8)
    assert tuple(out[0, inputs["input_ids"].shape[1] :].tolist()) == asked.token_ids


def check_transformers_own_class(engine):
    """Its processor and model make the same ids and tokens of the same frames."""
    folder = embedded_folder(engine.name)
    film = sample_film(np.random.default_rng(5), 6, 2, step=4, begin=0)
    frames = Renderer(film).frames(48)
    meta = {"fps": 1.0, "frames_indices": [*range(len(frames))], "total_num_frames": len(frames), "duration": 24.0}
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    processor = AutoProcessor.from_pretrained(folder)
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    how = {"video_metadata": [meta], "do_sample_frames": False, "return_tensors": "pt"}
    inputs = processor(text=[prompt.replace(*MARKS)], videos=[video], **how)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    asked = engine.ask(engine.encode(frames, timestamps=film.timestamps), QUESTION, max_new_tokens=8)
    assert tuple(out[0, inputs["input_ids"].shape[1] :].tolist()) == asked.token_ids
    assert asked.text == film.events[0].thing.phrase


def test_there_and_back_through_the_released_layout(engine, tmp_path):
    if engine.name == TINY_QWEN3:
        with pytest.raises(CheckpointError, match="qwen3-vl"):
            convert_checkpoint(engine.name, str(tmp_path / "released"), "released")
        return
    convert_checkpoint(engine.name, str(tmp_path / "released"), "released")
    convert_checkpoint(str(tmp_path / "released"), str(tmp_path / "ours"), "videoxl")
    for folder in ("released", "ours"):
        again = videoxl.load(str(tmp_path / folder), device="cpu")
        assert again.fingerprint == engine.fingerprint
    assert describe(str(tmp_path / "released"))["family"] == engine.config.family


def test_a_folder_of_the_same_name(tiny_folder, tmp_path, monkeypatch):
    """``load`` and ``plan`` mean the embedded model by its name and a folder by a path; files that are looked at or
    rewritten come first."""
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert videoxl.load("tiny", device="cpu").config.image_size == 48
    assert videoxl.load("./tiny", device="cpu").config.image_size == 96
    assert describe("tiny")["image_size"] == 96
    convert_checkpoint("tiny", "ours", "videoxl")
    assert describe("ours")["image_size"] == 96


def test_what_the_cache_holds_in_part_is_not_cached(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert not is_cached("some/model")
    held = tmp_path / "models--some--model"
    (held / "refs").mkdir(parents=True)
    (held / "refs" / "main").write_text("a" * 40)
    shutil.copytree(tiny_folder, snapshot := held / "snapshots" / ("a" * 40))
    (snapshot / "model.safetensors").rename(tmp_path / "elsewhere")
    assert not is_cached("some/model")
    (tmp_path / "elsewhere").rename(snapshot / "model.safetensors")
    assert is_cached("some/model")


def test_all_that_is_done_with_a_memory_can_be_done_with_one_of_qwen3(tmp_path):
    """Encode, extend, trim, fork, file, evidence, quantised keys and values, both levels, and a carried state."""
    engine = videoxl.load(TINY_QWEN3, device="cpu")
    film = sample_film(np.random.default_rng(8), 12, 3, step=4, begin=0)
    frames, event = Renderer(film).frames(48), film.events[0]
    question = f"Which shape is {event.thing.color}?" if event.thing.shape else f"Is there a {event.thing.name}?"
    whole = engine.encode(frames, timestamps=film.timestamps)
    wanted = engine.ask(whole, question, evidence=True)
    assert wanted.read
    grown = engine.encode(frames[:20], timestamps=film.timestamps[:20])
    grown.extend(frames[20:], timestamps=film.timestamps[20:])
    assert engine.ask(grown, question).token_ids == wanted.token_ids
    whole.save(path := tmp_path / "film.vxl")
    held = videoxl.VideoMemory.load(path, engine)
    assert engine.ask(held, question).token_ids == wanted.token_ids
    assert engine.ask(whole.fork(), question, decode="bilevel:top_k=100").token_ids == wanted.token_ids
    for how in ({"prefill": "statekv:budget=64"}, {"kv_dtype": "int8"}, {"prefill": "full:offload=true"}):
        read = engine.encode(frames, timestamps=film.timestamps, **how)
        assert engine.ask(read, question, decode="bilevel:top_k=2").token_ids, how
    held.trim(start=24.0)
    assert len(held.token_ids) < len(whole.token_ids)
    assert engine.ask(held, question).token_ids
