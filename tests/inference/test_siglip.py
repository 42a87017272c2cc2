"""Relevance by pictures, with a SigLIP model of random weights whose vectors are computed a second time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import SiglipConfig, SiglipModel

import videoxl
from tests import media
from videoxl import BiLevelDecode, Generation, SiglipRelevance

SHORT = Generation(max_new_tokens=4)
SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(text: str, *, max_length: int, **options) -> dict[str, torch.Tensor]:
    """Letters, cut off and filled up."""
    assert options == {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids = [ord(letter) % 64 for letter in text][:max_length]
    return {"input_ids": torch.tensor([ids + [1] * (max_length - len(ids))])}


@pytest.fixture(scope="module")
def siglip() -> SiglipRelevance:
    torch.manual_seed(0)
    text = {**SIZES, "vocab_size": 64, "max_position_embeddings": 16, "projection_size": 32}
    config = SiglipConfig(text_config=text, vision_config={**SIZES, "image_size": 24, "patch_size": 8})
    return SiglipRelevance(SiglipModel(config), tokenizer, device="cpu", batch=5)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (30, 24, 24, 3), np.uint8)


@torch.inference_mode()
def plain_scores(siglip, pictures, question: str) -> list[float]:
    """Best cosine of each four frames, with the model's own forward."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    ids = tokenizer(question, max_length=16, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    out = siglip.model(input_ids=ids, pixel_values=pixels)
    alike = (out.image_embeds @ out.text_embeds.T)[:, 0]
    return [float(alike[first : first + 4].max()) for first in range(0, len(alike), 4)]


def test_groups_are_compared_with_the_question(tiny, siglip, pictures):
    memory = tiny.encode(pictures, fps=2)
    watched = siglip.watch(memory, pictures, fps=2)
    for question in ("What is it?", "A question that is longer than the model reads"):
        assert watched(memory, question) == pytest.approx(plain_scores(siglip, pictures, question), abs=1e-5)


def test_blocks_are_chosen_by_it(tiny, siglip, pictures):
    memory = tiny.encode(pictures, fps=2)
    watched = siglip.watch(memory, pictures, fps=2)
    answer = tiny.ask(memory, "What?", decode=BiLevelDecode(block_size=1, top_k=1, relevance=watched), generation=SHORT)
    best = 1 + int(np.argmax(plain_scores(siglip, pictures, "What?")[1:-1]))
    assert memory.groups[best].start_s in [s.start for s in answer.spans]
    assert answer.usage.decode == "bilevel:top_k=1,block_size=1,relevance=siglip"


def test_a_file_is_read_at_the_times_of_the_memory(tiny, siglip, tmp_path):
    path = media.write_video(tmp_path / "a.mp4", frames=40, fps=5)
    memory = tiny.encode(path, fps=2)
    watched = siglip.watch(memory, path)
    assert len(watched.features_FD) == memory.frames == 20
    other = media.write_video(tmp_path / "b.mp4", frames=60, fps=5)
    with pytest.raises(ValueError, match=r"b\.mp4 is not the video this memory was made from"):
        siglip.watch(memory, other)


def test_a_memory_that_grew_must_be_watched_again(tiny, siglip, pictures):
    memory = tiny.encode(pictures[:16], fps=2)
    watched = siglip.watch(memory, pictures[:16], fps=2)
    memory.extend(pictures[16:24])
    with pytest.raises(ValueError, match=r"SigLIP saw 16 frames, this memory has 24.*call watch\(\)"):
        watched(memory, "What?")


def test_the_name_alone_says_what_to_do(tiny, pictures):
    memory = tiny.encode(pictures, fps=2)
    with pytest.raises(ValueError, match=r"relevance=SiglipRelevance\(\).watch\(memory, video\)"):
        tiny.ask(memory, "What?", decode="bilevel:relevance=siglip,block_size=1,top_k=1")


def test_answer_has_the_video_at_hand(tiny, siglip, pictures, monkeypatch):
    monkeypatch.setattr("videoxl.inference.siglip.SiglipRelevance", lambda: siglip)
    few = {"block_size": 1, "top_k": 1}
    got = tiny.answer(pictures, "What?", fps=2, decode=BiLevelDecode(relevance="siglip", **few), generation=SHORT)
    memory = tiny.encode(pictures, fps=2)
    watched = siglip.watch(memory, pictures, fps=2)
    want = tiny.ask(memory, "What?", decode=BiLevelDecode(relevance=watched, **few), generation=SHORT)
    assert got.token_ids == want.token_ids
    assert got.spans == want.spans


def test_a_loaded_model_needs_its_tokenizer(siglip):
    with pytest.raises(ValueError, match="needs its tokenizer"):
        videoxl.SiglipRelevance(siglip.model)
