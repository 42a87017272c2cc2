"""Relevance by pictures, with a SigLIP model of random weights whose vectors are computed a second time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import SiglipConfig, SiglipModel

import videoxl
from tests import media
from tests.model.random_tiny import tiny_tokenizer
from videoxl import BiLevelDecode, Generation, SiglipRelevance
from videoxl.cli.main import main
from videoxl.inference.decode.siglip import Watched, watching

SHORT = Generation(max_new_tokens=4)
SIDE = 96
"""Of pictures, as tiny and this SigLIP model read them."""
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
    config = SiglipConfig(text_config=text, vision_config={**SIZES, "image_size": SIDE, "patch_size": 16})
    return SiglipRelevance(SiglipModel(config), tokenizer, device="cpu", batch=5)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (30, SIDE, SIDE, 3), np.uint8)


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
    assert memory.groups[best].start_s in [s.start for s in answer.read]
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


@pytest.fixture(scope="module")
def folder(siglip, tmp_path_factory) -> str:
    """A SigLIP model as the Hub would have it."""
    words = tiny_tokenizer()
    text = {**SIZES, "vocab_size": len(words), "max_position_embeddings": 16, "projection_size": 32}
    torch.manual_seed(1)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=siglip.model.config.vision_config.to_dict()))
    path = tmp_path_factory.mktemp("siglip")
    model.save_pretrained(path)
    words.save_pretrained(path)
    return str(path)


@pytest.fixture
def engine(tiny):
    """Tiny without a SigLIP model."""
    yield tiny
    tiny.siglip = None


NAMED = BiLevelDecode(block_size=1, top_k=1, relevance="siglip")


def test_what_is_seen_while_reading_is_what_watching_sees(engine, siglip, pictures):
    memory = engine.encode(pictures, fps=2, siglip=siglip)
    assert torch.allclose(memory.embeddings.features_FD, siglip.watch(memory, pictures, fps=2).features_FD, atol=1e-6)
    assert engine.encode(pictures, fps=2).embeddings is None


def test_pictures_of_another_size_are_resized(engine, siglip):
    colours = np.random.default_rng(6).integers(0, 256, (7, 1, 1, 3), np.uint8)
    small, large = (colours.repeat(side, 1).repeat(side, 2) for side in (SIDE, 2 * SIDE))
    assert torch.allclose(siglip.encode_frames(large), siglip.encode_frames(small), atol=1e-5)


def test_the_name_is_enough_wherever_a_question_is_asked(engine, siglip, pictures):
    memory = engine.encode(pictures, fps=2, siglip=siglip)
    watched = siglip.watch(memory, pictures, fps=2)
    want = engine.ask(memory, "What?", decode=replace(NAMED, relevance=watched), generation=SHORT)
    *_, streamed = engine.stream(memory, "What?", decode=NAMED, generation=SHORT)
    settings = {"fps": 2, "siglip": siglip, "decode": NAMED, "generation": SHORT}
    found = [
        engine.ask(memory, "What?", decode="bilevel:relevance=siglip,block_size=1,top_k=1", generation=SHORT),
        streamed.answer,
        engine.chat_session(memory, decode=NAMED).ask("What?", generation=SHORT),
        engine.continue_conversation(memory, [], "What?", SHORT, NAMED),
        engine.answer(pictures, "What?", **settings),
    ]
    for answer in found:
        assert (answer.token_ids, answer.read) == (want.token_ids, want.read)
        assert answer.usage.decode == want.usage.decode


def test_what_was_seen_stays_with_a_memory_in_a_file(engine, folder, pictures, tmp_path):
    memory = engine.encode(pictures, fps=2, siglip=folder)
    want = engine.ask(memory, "What?", decode=NAMED, generation=SHORT)
    memory.save(tmp_path / "a.vxl", dtype="int8")
    engine.siglip = None  # as in another process
    loaded = videoxl.VideoMemory.load(tmp_path / "a.vxl", engine)
    assert torch.equal(loaded.embeddings.features_FD, memory.embeddings.features_FD)
    with pytest.raises(ValueError, match=r"not loaded on a file's word: give .*SiglipRelevance\(\.\.\.\), or --siglip"):
        engine.ask(loaded, "What?", decode=NAMED, generation=SHORT)
    engine.siglip = videoxl.SiglipRelevance(folder)
    assert engine.ask(loaded, "What?", decode=NAMED, generation=SHORT).read == want.read
    assert engine.siglip.name == folder


def test_extend_and_trim_keep_what_was_seen_with_its_frames(engine, folder, pictures):
    whole = engine.encode(pictures, fps=2, siglip=folder)
    memory = engine.encode(pictures[:14], fps=2, siglip=folder)
    memory.extend(pictures[14:])
    assert torch.allclose(memory.embeddings.features_FD, whole.embeddings.features_FD, atol=1e-6)
    fork = memory.fork()
    memory.trim(start=4.0, end=10.0)
    assert torch.equal(memory.embeddings.features_FD, fork.embeddings.features_FD[8:20])
    assert memory.frames == 12
    decode = replace(NAMED, relevance=lambda m, q: siglip_scores(engine, m, q))
    assert (
        engine.ask(memory, "What?", decode=NAMED, generation=SHORT).read
        == engine.ask(memory, "What?", decode=decode, generation=SHORT).read
    )


def siglip_scores(engine, memory, question) -> np.ndarray:
    return Watched(engine.siglip, memory.timestamps, memory.embeddings.features_FD)(memory, question)


def test_a_video_at_hand_is_looked_at_when_the_memory_was_not_told_to(engine, siglip, pictures):
    engine.siglip = siglip
    memory = engine.encode(pictures, fps=2)
    assert watching(NAMED, memory, pictures, {"fps": 2}) is NAMED
    told = engine.encode(pictures, fps=2, siglip=True)
    assert torch.allclose(memory.embeddings.features_FD, told.embeddings.features_FD, atol=1e-6)
    plain = engine.encode(pictures, fps=2)
    watching(BiLevelDecode(), plain, pictures, {"fps": 2})
    assert plain.embeddings is None


def test_another_siglip_than_the_one_that_looked_is_refused(engine, siglip, folder, pictures):
    memory = engine.encode(pictures, fps=2, siglip=siglip)
    memory.keep_embeddings(replace(memory.embeddings, model=folder))
    engine.siglip = None
    with pytest.raises(ValueError, match=r"looked at by the SigLIP model .*, which is not loaded on a file's word"):
        engine.ask(memory, "What?", decode=NAMED)


def test_a_model_without_a_siglip_says_what_to_do(engine, pictures):
    with pytest.raises(ValueError, match="comes without a SigLIP model that reads text: name one, siglip="):
        engine.encode(pictures, fps=2, siglip=True)
    with pytest.raises(ValueError, match="name one, siglip="):
        engine.answer(pictures, "What?", fps=2, decode=NAMED)
    with pytest.raises(videoxl.CheckpointError, match="no SigLIP model could be loaded from"):
        engine.encode(pictures, fps=2, siglip="/absent")


def test_a_siglip_in_the_models_folder_is_its_own(tiny_folder, folder, pictures, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "m")
    shutil.copytree(folder, tmp_path / "m" / "siglip")
    engine = videoxl.load(str(tmp_path / "m"), device="cpu")
    memory = engine.encode(pictures, fps=2, siglip=True)
    assert memory.embeddings.model == ""
    assert engine.ask(memory, "What?", decode=NAMED, generation=SHORT).usage.decode.endswith("relevance=siglip")


def test_the_command_line(folder, clip, tmp_path, capsys):
    film = str(tmp_path / "film.vxl")
    quick = ["--model", "tiny", "--quiet"]
    asked = ["--decode", "bilevel:block_size=1,top_k=1", "--relevance", "siglip", "--json", "--quiet"]

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return ended.value.code, *capsys.readouterr()

    assert run("encode", str(clip), "-o", film, "--fps", "2", "--siglip", folder, *quick)[0] == 0
    assert json.loads(run("info", film, "--json")[1])["siglip"] == f"kept, of {folder}"
    code, _, said = run("ask", film, "What is shown?", *asked)
    assert (code, "is not loaded on a file's word: give" in said) == (2, True)
    code, out, _ = run("ask", film, "What is shown?", "--siglip", folder, *asked)
    assert (code, json.loads(out)[0]["usage"]["decode"]) == (0, "bilevel:top_k=1,block_size=1,relevance=siglip")
    code, also, _ = run("ask", str(clip), "What is shown?", "--fps", "2", "--siglip", folder, "--model", "tiny", *asked)
    assert (code, json.loads(also)[0]["read"]) == (0, json.loads(out)[0]["read"])
    code, _, said = run("ask", film, "What?", "--relevance", "siglip", "--quiet")
    assert (code, "'dense' has no setting 'relevance=siglip'" in said) == (2, True)
    assert run("encode", str(clip), "-o", film, "--fps", "2", *quick)[0] == 0
    code, _, said = run("ask", film, "What?", *asked)
    assert (code, "--siglip" in said) == (2, True)


def test_a_loaded_model_needs_its_tokenizer(siglip):
    with pytest.raises(ValueError, match="needs its tokenizer"):
        videoxl.SiglipRelevance(siglip.model)
