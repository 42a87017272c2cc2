"""What is read of Qwen3-VL here is what transformers' own class computes: prompts, logits, greedy tokens."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
import torch

import videoxl
from tests.model.families.qwen3_vl_folder import Shape, Theirs, pictures, write_folder
from videoxl import BiLevelDecode, CheckpointError, FullPrefill, VideoMemory
from videoxl.inference.decode.loop import decode_tokens
from videoxl.inference.prefill import tiles
from videoxl.inference.prefill.choose import frames_per_tile
from videoxl.model.families.picture_size import fitted_size

RATE = Fraction(2)
QUESTION = "What is seen?"
TOKENS = 5
CLOSE = 1e-4
"""Largest difference of two logits, relative to the largest of all."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen") / "tiny-qwen"
    write_folder(path, Shape())
    return path


@pytest.fixture(scope="module")
def engine(folder):
    return videoxl.load(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def theirs(folder):
    return Theirs(folder)


@pytest.fixture(scope="module")
def film():
    return pictures(7, 24, 16)


def times(count, first=0):
    return [float((first + number) / RATE) for number in range(count)]


@pytest.fixture(scope="module")
def memory(engine, film):
    return engine.encode(film, timestamps=times(7))


@pytest.fixture(scope="module")
def wanted(theirs, film):
    return theirs.answer(theirs.inputs(QUESTION, [film], RATE), TOKENS)


def assert_answers(engine, memory, wanted, question=QUESTION):
    """Greedy tokens are equal, and all logits close."""
    ids, logits = wanted
    asked = [*memory.token_ids, *engine.chat_format.suffix(question)]
    settings = videoxl.Generation(max_new_tokens=len(ids))
    cache = memory.cache.fork()
    found = list(decode_tokens(engine.model, asked, cache, settings, keep_logits=True))
    assert [token.id for token in found] == ids
    ours = torch.stack([token.logits_V for token in found])
    assert (ours - logits).abs().max() <= CLOSE * logits.abs().max()


def test_prompt_logits_and_tokens_are_those_of_transformers(engine, theirs, film, memory, wanted):
    inputs = theirs.inputs(QUESTION, [film], RATE)
    assert [*memory.token_ids, *engine.chat_format.suffix(QUESTION)] == inputs["input_ids"][0].tolist()
    positions, delta = theirs.model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"]
    )
    held = memory.cache.positions
    assert torch.equal(held.held_3S, positions[:, 0, : len(held)])
    assert held.shift == int(delta)
    assert_answers(engine, memory, wanted)
    assert list(engine.ask(memory, QUESTION, max_new_tokens=TOKENS, min_new_tokens=TOKENS).token_ids) == wanted[0]


@pytest.mark.parametrize("cut", range(1, 7))
def test_extending_at_any_frame_is_reading_at_once(engine, film, wanted, cut):
    memory = engine.encode(film[:cut], timestamps=times(cut))
    memory.extend(film[cut:], timestamps=times(7 - cut, cut))
    assert_answers(engine, memory, wanted)


def test_forks_and_files_answer_as_the_memory_does(engine, memory, wanted, tmp_path):
    assert_answers(engine, memory.fork(), wanted)
    memory.save(tmp_path / "a.vxl")
    loaded = VideoMemory.load(tmp_path / "a.vxl", engine)
    assert_answers(engine, loaded, wanted)
    assert torch.equal(loaded.cache.positions.held_3S, memory.cache.positions.held_3S)
    for dtype in ("int8", "bf16"):  # int8 stores keys without positions
        memory.save(tmp_path / "b.vxl", dtype=dtype)
        rounded = VideoMemory.load(tmp_path / "b.vxl", engine)
        exact, read = memory.cache.layers[-1].keys, rounded.cache.layers[-1].keys
        assert (exact - read).abs().max() <= 0.02 * exact.abs().max()


def test_trimming_the_end_is_not_having_read_it(engine, theirs, film, memory):
    shorter = memory.fork()
    shorter.trim(end=2.0)
    assert_answers(engine, shorter, theirs.answer(theirs.inputs(QUESTION, [film[:4]], RATE), TOKENS))


def test_trimming_the_beginning_moves_what_is_left(engine, film, memory):
    rest = memory.fork()
    rest.trim(start=2.0)
    alone = engine.encode(film[4:], timestamps=times(3, 4))
    assert rest.token_ids == alone.token_ids
    assert rest.groups == alone.groups
    assert torch.equal(rest.cache.positions.held_3S, alone.cache.positions.held_3S)
    first = rest.cache.layers[0].keys - alone.cache.layers[0].keys  # the first layer sees no other token
    assert first.abs().max() <= 1e-5 * alone.cache.layers[0].keys.abs().max()
    rest.extend(film[:2], timestamps=times(2, 7))
    assert rest.frames == 5


def test_offloaded_it_is_the_same(engine, film, wanted, monkeypatch):
    memory = engine.encode(film, timestamps=times(7), prefill=FullPrefill(offload=True))
    assert all(layer.on_host for layer in memory.cache.layers)
    assert_answers(engine, memory, wanted)
    halves = engine.encode(film[:3], timestamps=times(3), prefill="full:offload=true")
    halves.extend(film[3:], timestamps=times(4, 3))
    assert_answers(engine, halves, wanted)


def test_tiles_of_any_size_give_the_same(engine, film, wanted, monkeypatch):
    for frames in (2, 4):
        monkeypatch.setattr(tiles, "FRAMES_PER_TILE", frames)
        monkeypatch.setattr("videoxl.inference.prefill.choose.FRAMES_PER_TILE", frames)
        assert_answers(engine, engine.encode(film, timestamps=times(7)), wanted)


def test_large_pictures_make_short_tiles(engine):
    frames = [frames_per_tile(FullPrefill(), engine.config.with_picture(16 * n, 16 * n)) for n in (1, 16, 64, 200)]
    assert frames == [96, 16, 2, 2]


def test_a_picture_is_read_as_a_picture(engine, theirs, tmp_path):
    from PIL import Image

    (picture,) = pictures(1, 24, 32, seed=4)
    Image.fromarray(picture).save(tmp_path / "still.png")
    memory = engine.encode(tmp_path / "still.png")
    inputs = theirs.inputs(QUESTION, [], RATE, images=[picture])
    assert [*memory.token_ids, *engine.chat_format.suffix(QUESTION)] == inputs["input_ids"][0].tolist()
    wanted = theirs.answer(inputs, TOKENS)
    assert_answers(engine, memory, wanted)
    memory.save(tmp_path / "still.vxl")
    assert_answers(engine, VideoMemory.load(tmp_path / "still.vxl", engine), wanted)
    answer = engine.ask(memory, QUESTION, decode=BiLevelDecode(), max_new_tokens=2, evidence=True)
    assert answer.read[0].relevance == 1.0


def test_turns_of_a_chat_see_those_before(engine, memory, theirs, film):
    session = engine.chat_session(memory)
    first = session.ask(QUESTION, max_new_tokens=3, min_new_tokens=3)
    second = session.ask("And then?", max_new_tokens=TOKENS, min_new_tokens=TOKENS)
    inputs = theirs.inputs(QUESTION, [film], RATE)
    more = [*first.token_ids, *engine.chat_format.next_turn("And then?", answer_closed=False)]
    ids = torch.cat([inputs["input_ids"], torch.tensor([more])], dim=1)
    longer = {
        **inputs,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(more))),
    }
    assert list(second.token_ids) == theirs.answer(longer, TOKENS)[0]


def test_beams_together_and_streamed_are_the_same(engine, memory, theirs, film, wanted):
    inputs = theirs.inputs(QUESTION, [film], RATE)
    theirs.model.model.rope_deltas = None
    beams = theirs.model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, num_beams=2, do_sample=False)
    how = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    found = engine.ask(memory, QUESTION, num_beams=2, **how)
    assert list(found.token_ids) == beams[0, inputs["input_ids"].shape[1] :].tolist()
    both = engine.ask(memory, [QUESTION, "And why?"], **how)
    assert list(both[0].token_ids) == wanted[0]
    *_, last = engine.stream(memory, QUESTION, **how)
    assert list(last.answer.token_ids) == wanted[0]


def test_two_levels_keep_positions(engine, theirs):
    film = pictures(14, 24, 16, seed=2)
    memory = engine.encode(film, timestamps=times(14))
    decode = BiLevelDecode(top_k=1, block_size=1, pool=2)
    answer = engine.ask(memory, QUESTION, decode=decode, max_new_tokens=2)
    assert answer.usage.read_tokens < answer.usage.memory_tokens
    assert len(answer.read) == 3
    whole = engine.ask(memory, QUESTION, decode=BiLevelDecode(top_k=9, block_size=1, pool=2), max_new_tokens=TOKENS)
    assert whole.token_ids == engine.ask(memory, QUESTION, max_new_tokens=TOKENS).token_ids


@pytest.mark.parametrize(("frames", "height", "width"), [(2, 24, 16), (7, 700, 300), (64, 90, 400), (5, 3, 9)])
def test_sizes_follow_the_processors_rule(theirs, frames, height, width):
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    budget = (2_000, 90_000)
    wanted = smart_resize(frames, height, width, 2, 8, *budget)
    assert fitted_size(frames, height, width, side=8, together=2, budget=budget) == wanted


def test_a_long_video_gets_smaller_pictures(engine):
    film = pictures(10, 160, 80)
    memory = engine.encode(film, timestamps=times(10))
    rows, columns = memory.state.grid
    assert rows * columns * 64 * 10 <= 40_000
    assert (rows, columns) != (20, 10)


def test_a_folder_without_its_processor_is_refused(folder, tmp_path):
    for path in folder.iterdir():
        if "processor" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="has no processor: neither video_preprocessor_config"):
        videoxl.load(str(tmp_path), device="cpu")


def test_a_memory_of_another_family_is_refused(engine, memory, tiny, tmp_path):
    memory.save(tmp_path / "a.vxl")
    with pytest.raises(videoxl.MemoryFileError, match="was made by tiny-qwen"):
        VideoMemory.load(tmp_path / "a.vxl", tiny)
    other = tiny.encode(pictures(4, 28, 28), timestamps=times(4))
    other.save(tmp_path / "b.vxl")
    with pytest.raises(videoxl.MemoryFileError, match="this model is tiny-qwen"):
        VideoMemory.load(tmp_path / "b.vxl", engine)


def test_what_it_cannot_do_is_said(engine, film):
    with pytest.raises(ValueError, match=r"'chunked.*is not for qwen3-vl; it has full"):
        engine.encode(film, timestamps=times(7), prefill="chunked")


def random_shape(seed):
    draw = random.Random(seed)
    kv_heads = draw.choice([1, 2, 4])
    tower = draw.randint(1, 4)
    layers = draw.randint(1, 4)
    places = tuple(sorted(draw.sample(range(tower), draw.randint(0, min(tower, layers)))))
    return Shape(
        seed=seed,
        layers=layers,
        heads=kv_heads * draw.choice([1, 2, 3]),
        kv_heads=kv_heads,
        head_width=draw.choice([8, 16, 24]),
        hidden=draw.choice([16, 24, 40]),
        tower_layers=tower,
        deepstack=places,
        tied=draw.random() < 0.3,
        merge=draw.choice([1, 2]),
        video_pixels=(64, 4_000_000),
    )


def compare(seed, path, monkeypatch):
    """One random configuration, in every way that a memory comes about."""
    draw, shape = random.Random(seed + 1000), random_shape(seed)
    write_folder(path, shape)
    engine, theirs = videoxl.load(str(path), device="cpu", dtype="float32"), Theirs(path)
    side, count = 4 * shape.merge, draw.randint(2, 11)
    film = pictures(count, side * draw.randint(1, 6), side * draw.randint(1, 6), seed=seed)
    monkeypatch.setattr("videoxl.inference.prefill.choose.FRAMES_PER_TILE", 2 * draw.randint(1, 3))
    wanted = theirs.answer(theirs.inputs(QUESTION, [film], RATE), TOKENS)
    memory = engine.encode(film, timestamps=times(count), prefill=FullPrefill(offload=seed % 3 == 0))
    assert_answers(engine, memory, wanted)
    cut = draw.randint(1, count - 1)
    parts = engine.encode(film[:cut], timestamps=times(cut))
    parts.extend(film[cut:], timestamps=times(count - cut, cut))
    parts.save(path / "memory.vxl")
    assert_answers(engine, VideoMemory.load(path / "memory.vxl", engine).fork(), wanted)
    if count > 2:
        memory.trim(end=float(2 / RATE))
        assert_answers(engine, memory, theirs.answer(theirs.inputs(QUESTION, [film[:2]], RATE), TOKENS))


@pytest.mark.parametrize("seed", range(4))
def test_random_configurations(seed, tmp_path, monkeypatch):
    compare(seed, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 44))
def test_forty_random_configurations(seed, tmp_path, monkeypatch):
    compare(seed, tmp_path, monkeypatch)


def test_subtitles_stand_behind_the_time(engine, film, wanted):
    from videoxl.video.subtitles import Cue

    cues = [Cue(0.2, 0.4, "Hello."), Cue(1.6, 1.8, "Bye.")]
    memory = engine.encode(film, timestamps=times(7), subtitles=cues)
    text = engine.tokenizer.decode(list(memory.token_ids)).replace("<|video_pad|>", "")
    assert '<0.2 seconds> "Hello."<|vision_start|><|vision_end|><1.2 seconds> "Bye."<|vision_start|>' in text
    parts = engine.encode(film[:3], timestamps=times(3), subtitles=cues)
    parts.extend(film[3:], timestamps=times(4, 3), subtitles=cues)
    assert parts.token_ids == memory.token_ids
    assert np.allclose(parts.cache.positions.held_3S, memory.cache.positions.held_3S)


def test_several_videos_and_pictures_in_a_prompt(engine, theirs, film, tmp_path):
    from PIL import Image

    first, (picture,) = pictures(5, 16, 40, seed=7), pictures(1, 24, 32, seed=8)
    Image.fromarray(picture).save(tmp_path / "still.png")
    before = [
        {"type": "image", "image": tmp_path / "still.png"},
        {"type": "video", "video": first, "timestamps": times(5)},
        {"type": "text", "text": "and then"},
    ]
    memory = engine.encode(film, timestamps=times(7), before=before)
    marks = "<|vision_start|><|image_pad|><|vision_end|><|video_pad|>and then<|video_pad|>"
    inputs = theirs.inputs(QUESTION, [first, film], RATE, images=[picture], marks=marks)
    assert [*memory.token_ids, *engine.chat_format.suffix(QUESTION)] == inputs["input_ids"][0].tolist()
    wanted = theirs.answer(inputs, TOKENS)
    assert_answers(engine, memory, wanted)
    halves = engine.encode(film[:3], timestamps=times(3), before=before)
    halves.extend(film[3:], timestamps=times(4, 3))
    assert_answers(engine, halves, wanted)
    halves.fork().trim(end=0.1)  # a fork may forget what it likes
    shorter = memory.fork()
    shorter.trim(end=times(7)[4])
    assert_answers(
        engine,
        shorter,
        theirs.answer(theirs.inputs(QUESTION, [first, film[:4]], RATE, images=[picture], marks=marks), TOKENS),
    )
    assert_answers(engine, halves, wanted)
    with pytest.raises(
        ValueError, match=r"further videos or pictures before its own is not written to a file: .* encode\(before="
    ):
        memory.save(tmp_path / "a.vxl")


def test_text_before_a_video_is_saved_and_a_picture_before_it_refused(engine, film, tmp_path):
    from PIL import Image

    Image.fromarray(pictures(1, 24, 32, seed=8)[0]).save(tmp_path / "still.png")
    text = {"type": "text", "text": "and then"}
    seen = engine.encode(film, timestamps=times(7), before=[{"type": "image", "image": tmp_path / "still.png"}, text])
    with pytest.raises(ValueError, match="further videos or pictures before its own is not written"):
        seen.save(tmp_path / "a.vxl")
    assert not (tmp_path / "a.vxl").exists()
    memory = engine.encode(film[:5], timestamps=times(5), before=[text])
    memory.save(tmp_path / "a.vxl")
    loaded = VideoMemory.load(tmp_path / "a.vxl", engine)
    for each in (memory, loaded):
        each.extend(film[5:], timestamps=times(2, 5))
        each.trim(end=times(7)[6])
    first, again = (engine.ask(each, QUESTION, max_new_tokens=TOKENS) for each in (memory, loaded))
    assert first.text == again.text
    assert memory.token_ids == loaded.token_ids
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(memory.cache.layers, loaded.cache.layers))


def test_the_chat_template_of_newer_processors_has_one_more_pair_of_marks(engine, theirs, film):
    """Which the model was not trained with; else it is the prompt here. Older processors replace the whole of it."""
    inner, outer = (
        theirs.inputs(QUESTION, [film], RATE, marks=marks)["input_ids"][0].tolist()
        for marks in ("<|video_pad|>", "<|vision_start|><|video_pad|><|vision_end|>")
    )
    opening, closing = (engine.chat_format.tokenize(mark) for mark in ("<|vision_start|>", "<|vision_end|>"))
    memory = engine.encode(film, timestamps=times(len(film)))
    head = memory.prefix_length
    assert inner == [*memory.token_ids, *engine.chat_format.suffix(QUESTION)]
    end = len(memory.token_ids) + len(closing)  # the last group's own mark is read with the question
    assert outer in (inner, [*inner[:head], *opening, *inner[head:end], *closing, *inner[end:]])


@pytest.mark.parametrize(
    "part", [{"type": "sound", "sound": "a.wav"}, {"type": "text"}, "text", {"type": "text", "text": "a", "fps": 2}]
)
def test_a_part_that_nothing_reads_is_refused(engine, film, part):
    with pytest.raises(ValueError, match=r"before\[0\]"):
        engine.encode(film, timestamps=times(7), before=[part])


def test_several_videos_are_for_families_that_can(tiny, film):
    with pytest.raises(ValueError, match="several videos in a prompt are for qwen3-vl, this model is of video-xl-2"):
        tiny.encode(film, timestamps=times(7), before=[{"type": "video", "video": film}])
