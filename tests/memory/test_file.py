"""A memory in a file is the memory it was."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from tests.memory.stored import BILEVEL, answer, assert_same, encoded, pictures, read_all, same_states, seconds
from tests.model.builders import pro_model, small_beacon_model
from tests.model.random_tiny import tiny_engine, tiny_tokenizer
from videoxl.errors import MemoryFileError
from videoxl.inference.engine import VideoXL
from videoxl.memory.file.layers import FileLayer, StoredLevel
from videoxl.memory.file.load import StoredMemory
from videoxl.memory.video_memory import VideoMemory

FIXTURES = Path(__file__).parents[1] / "fixtures"
PREFILLS = {
    "tiny": ("full", "chunked:chunk_size=4,step_size=2", "chunked:chunk_size=2,step_size=1,offload=True"),
    "v1": ("beacon:ratio=4", "beacon:ratio=2+4,mix=random", "full"),
    "pro": ("selective", "full"),
}
CASES = [(name, prefill) for name, prefills in PREFILLS.items() for prefill in prefills]


@pytest.fixture(scope="module")
def engines(tiny):
    return {
        "tiny": tiny,
        "v1": VideoXL(small_beacon_model(), tiny_tokenizer(), name="v1"),
        "pro": VideoXL(pro_model(), tiny_tokenizer(), name="pro"),
    }


@pytest.fixture(scope="module")
def films(engines):
    """46 frames, of Video-XL-2 twelve groups and three blocks."""
    return {name: encoded(engines[name], 46) for name in ("tiny", "v1")}


@pytest.fixture
def film(films):
    return films["tiny"]


def loaded(memory: VideoMemory, path, **how) -> VideoMemory:
    memory.save(path, **how)
    return VideoMemory.load(path, memory.owner)


@pytest.mark.parametrize(("name", "prefill"), CASES)
def test_what_is_loaded_is_what_was_saved(engines, tmp_path, name, prefill):
    engine = engines[name]
    memory = encoded(engine, prefill=prefill)
    again = loaded(memory, tmp_path / "film.vxl")
    assert repr(again) == repr(memory)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.vxl"]
    assert answer(engine, again) == answer(engine, memory)
    assert_same(again, memory)
    twice = loaded(again, tmp_path / "film.vxl")
    assert_same(twice, memory)


@pytest.mark.parametrize(("name", "prefill"), [c for c in CASES if c[0] != "pro"])
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_saving_and_loading_on_the_way_changes_nothing(engines, tmp_path_factory, name, prefill, data):
    """Whatever is done to it afterwards, and whenever it was written and read."""
    engine, folder = engines[name], tmp_path_factory.mktemp("way")
    kept = encoded(engine, data.draw(st.integers(2, 30)), prefill=prefill)
    stored = loaded(kept, folder / "film.vxl")
    kinds = ["extend", "fork", "ask", "save"] + ["trim"] * (not prefill.startswith("beacon"))
    for number, step in enumerate(data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))):
        if step == "extend":
            more, first = data.draw(st.integers(1, 14)), kept.timestamps[-1] + 0.5
            for memory in (kept, stored):
                memory.extend(pictures(more, number), timestamps=seconds(more, first))
        elif step == "trim":
            begin, end = kept.groups[0].start_s, kept.groups[-1].end_s
            cut = data.draw(st.floats(0, 1)) * (end - begin) + begin
            which = "end" if data.draw(st.booleans()) and cut > begin else "start"
            if which == "start" and cut >= end:
                continue
            for memory in (kept, stored):
                memory.trim(**{which: cut})
        elif step == "fork":
            kept, stored = kept.fork(), stored.fork()
        elif step == "ask":
            assert answer(engine, stored) == answer(engine, kept)
        else:
            stored = loaded(stored, folder / f"{number}.vxl")
    assert_same(stored, kept)


def test_a_conversation_about_a_loaded_memory(tiny, film, tmp_path):
    again = loaded(film, tmp_path / "film.vxl")
    kept, stored = tiny.chat_session(film), tiny.chat_session(again)
    for question in ("One?", "Two?"):
        turns = [chat.ask(question, max_new_tokens=4).token_ids for chat in (kept, stored)]
        assert turns[0] == turns[1]
    assert torch.equal(again.features(1).keys_KSE, film.features(1).keys_KSE)
    assert_same(again, film)


def test_forks_of_a_memory_nobody_read_do_not_meet(tiny, film, tmp_path):
    """One reads on in place, another one asks, a third is read last: each sees what was saved."""
    again = loaded(film, tmp_path / "film.vxl")
    first, second, third = again.fork(), again.fork(), again.fork()
    first.extend(pictures(8, 1), timestamps=seconds(8, film.timestamps[-1] + 0.5))
    assert answer(tiny, second) == answer(tiny, film)
    again.trim(end=4)
    for memory in (second, third):
        assert_same(memory, film)
    longer = film.fork()
    longer.extend(pictures(8, 1), timestamps=seconds(8, film.timestamps[-1] + 0.5))
    assert same_states(first, longer)


# -------------------------------------------------------------------------------------------------------------- lazily


def file_of(memory: VideoMemory):
    (layer, *_) = memory.cache.layers
    assert isinstance(layer, FileLayer)
    assert layer.unread
    return layer.source.level.file


def test_only_what_a_question_reads_is_read(tiny, tmp_path):
    memory, decode = encoded(tiny, 200), "bilevel:relevance=0+7"
    again = loaded(memory, tmp_path / "film.vxl")
    file = file_of(again)
    wanted, at_load = answer(tiny, memory, decode=decode), file.bytes_read
    averages = memory.coarse_kv[4].nbytes
    assert again.tiers == {"device": 0, "host": 0, "disk": memory.nbytes + averages}
    assert answer(tiny, again, decode=decode) == wanted
    three_blocks = 3 * 4 * memory.nbytes / len(memory.groups)
    assert file.bytes_read - at_load <= 1.1 * (three_blocks + averages)
    assert again.tiers == {"device": 0, "host": averages, "disk": memory.nbytes}
    assert answer(tiny, again) == answer(tiny, memory)
    assert again.tiers == {"device": 0, "host": memory.nbytes + averages, "disk": 0}
    read = file.bytes_read
    assert read < 1.2 * os.path.getsize(tmp_path / "film.vxl")
    assert answer(tiny, again) == answer(tiny, memory)
    assert file.bytes_read == read


@pytest.mark.parametrize("decode", ["bilevel:top_k=1", "bilevel:top_k=2,block_size=3", "bilevel:pool=2,relevance=1"])
def test_bilevel_questions_about_a_file(tiny, tmp_path, decode):
    memory = encoded(tiny, 64)
    again = loaded(memory, tmp_path / "film.vxl")
    both = [tiny.ask(m, "What is it?", decode=decode, max_new_tokens=4) for m in (memory, again)]
    assert both[0].token_ids == both[1].token_ids
    assert both[0].read == both[1].read
    assert again.tiers["disk"] >= again.nbytes


# ------------------------------------------------------------------------------------------------- dtypes and levels

WORST = {"bf16": 0.004, "int8": 0.008, "fp8": 0.04}
"""Largest relative error of keys and values; measured 0.0020, 0.0046 and 0.024."""


@pytest.mark.parametrize("dtype", WORST)
@pytest.mark.parametrize("name", ["tiny", "v1"])
def test_smaller_dtypes_stay_close(films, tmp_path, name, dtype):
    memory = films[name]
    again = loaded(memory, tmp_path / "film.vxl", dtype=dtype)
    for a, b in zip(again.cache.layers, memory.cache.layers):
        for x, y in ((a.keys, b.keys), (a.values, b.values)):
            assert x.dtype == y.dtype
            assert float((x - y).norm() / y.norm()) < WORST[dtype]
    exact = tmp_path / "exact.vxl"
    memory.save(exact)
    assert os.path.getsize(tmp_path / "film.vxl") < os.path.getsize(exact)
    twice = loaded(again, tmp_path / "twice.vxl")
    assert_same(twice, again)


def test_biases_of_keys_do_not_hurt_eight_bits(engines, tmp_path):
    """As large as Qwen2 has them; scales per token would lose the rest of the key beside them."""
    engine = VideoXL(small_beacon_model(), tiny_tokenizer())
    with torch.no_grad():
        for layer in engine.model.model.language_model.layers:
            layer.self_attn.k_proj.bias[::6] += 50.0
    memory = encoded(engine, 46, prefill="full")
    again = loaded(memory, tmp_path / "film.vxl", dtype="int8")
    for a, b in zip(again.cache.layers, memory.cache.layers):
        assert float((a.keys - b.keys).abs().max()) < 0.1


def test_bf16_of_bf16_is_exact(tmp_path):
    engine = tiny_engine(dtype=torch.bfloat16)
    memory = encoded(engine)
    assert_same(loaded(memory, tmp_path / "film.vxl", dtype="bf16"), memory)
    assert_same(loaded(memory, tmp_path / "film.vxl"), memory)


def test_the_averages_alone_answer_what_reads_averages(tiny, tmp_path):
    memory = encoded(tiny, 96)
    again = loaded(memory, tmp_path / "film.vxl", level="pooled")
    assert answer(tiny, again, decode=BILEVEL) == answer(tiny, memory, decode=BILEVEL)
    for wrong in ({}, {"decode": "bilevel:top_k=2"}, {"decode": "bilevel:relevance=3"}):
        with pytest.raises(MemoryFileError, match=r"saved with level='pooled'.*relevance=0") as found:
            answer(tiny, again, **wrong)
        assert found.value.code == "memory_pooled_only"
    for change in (lambda: again.trim(start=4), lambda: again.extend(pictures(4)), lambda: again.features(0)):
        with pytest.raises(MemoryFileError, match="level='pooled'"):
            change()
    with pytest.raises(MemoryFileError, match="level='pooled'"):
        again.save(tmp_path / "dense.vxl")
    twice = loaded(again, tmp_path / "twice.vxl", level="pooled")
    assert answer(tiny, twice, decode=BILEVEL) == answer(tiny, memory, decode=BILEVEL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.vxl", "twice.vxl"]


def test_a_short_memory_is_whole_on_either_level(tiny, tmp_path):
    memory = encoded(tiny, 20)
    assert_same(loaded(memory, tmp_path / "film.vxl", level="pooled"), memory)


def test_what_cannot_be_written_says_so(films, film, tmp_path):
    with pytest.raises(ValueError, match="have no pooled level"):
        films["v1"].save(tmp_path / "film.vxl", level="pooled")
    with pytest.raises(ValueError, match="unknown dtype 'int4'; allowed: auto, bf16, int8, fp8"):
        film.save(tmp_path / "film.vxl", dtype="int4")
    with pytest.raises(ValueError, match="unknown level 'sparse'"):
        film.save(tmp_path / "film.vxl", level="sparse")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ for the world


def test_any_safetensors_reader_opens_it(film, tmp_path):
    film.save(tmp_path / "film.vxl")
    with safe_open(tmp_path / "film.vxl", "pt") as file:
        assert file.metadata()["format"] == "videoxl-memory"
        keys = torch.cat([file.get_tensor(n) for n in sorted(file.keys()) if n.startswith("dense") and "keys" in n], 2)
        assert tuple(file.get_tensor("token_ids").tolist()) == film.token_ids
    for layer, held in zip(keys, film.cache.layers, strict=True):
        assert torch.equal(layer, held.keys[0])


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_files_of_version_1_stay_readable(dtype):
    """Written when the format was new; read by its description (docs/reference/memory-file.md) and by the package."""
    path = FIXTURES / f"memory-1-{dtype}.vxl"
    stored = StoredMemory.open(path)
    assert (len(stored.token_ids), stored.prefix_length, len(stored.timestamps)) == (90, 44, 5)
    assert [(g.start_s, g.end_s) for g in stored.groups] == [(0.0, 2.0), (2.0, 2.5)]
    assert (stored.model_id.name, stored.prefill, stored.usage.frames) == ("tiny", "full", 5)
    assert stored.pending is not None
    assert stored.pending.pixels_FHWC.shape == (1, 96, 96, 3)
    level = StoredLevel(stored.file, stored.coarse[4], stored.coarse[4].tokens, torch.float32, None)
    with safe_open(path, "pt") as file:
        names = [name for name in sorted(file.keys()) if name.startswith("pooled4")]
        raw = {name.removeprefix("pooled4.00000."): file.get_tensor(name) for name in names}
    keys, values = raw["keys"].float(), raw["values"].float()
    if dtype == "int8":
        keys = keys / 127 * raw["key_scales"][:, :, None] + raw["key_offsets"][:, :, None]
        values = values / 127 * raw["value_scales"][..., None]
    for layer in range(2):
        for which, described in (("keys", keys), ("values", values)):
            read = level.select(which, layer, torch.arange(level.length), torch.device("cpu"))
            assert float((read[0] - described[layer]).abs().max()) <= 1e-6
    assert stored.file.verify() == {"auto": 5 + 8 + 4, "int8": 5 + 20 + 10}[dtype]


def test_another_process_answers_the_same(tiny, tiny_folder, film, tmp_path):
    film.save(tmp_path / "film.vxl")
    code = f"""
import videoxl
model = videoxl.load({str(tiny_folder)!r}, device="cpu")
memory = videoxl.VideoMemory.load({str(tmp_path / "film.vxl")!r}, model)
print(list(model.ask(memory, "What is it?", max_new_tokens=8).token_ids))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(list(answer(tiny, film, max_new_tokens=8))), done.stderr


def test_who_has_the_old_file_open_keeps_reading_it(tiny, film, tmp_path):
    again = loaded(film, tmp_path / "film.vxl")
    encoded(tiny, 8, seed=5).save(tmp_path / "film.vxl")
    read_all(again)
    assert_same(again, film)
    again = loaded(film, tmp_path / "film.vxl")
    (tmp_path / "film.vxl").unlink()
    assert_same(again, film)


def test_numbers_of_the_usage_come_back_as_they_were(film, tmp_path):
    memory = film.fork()
    usage = replace(memory.usage, window_ratios=(2, 4), seconds={"odd": 0.1}, digest=None, subtitles=3, extended=2)
    memory.state = replace(memory.state, usage=usage, warnings=('half of it, "quoted"', "naïve – 日本"))
    again = loaded(memory, tmp_path / "film.vxl")
    assert again.usage == memory.usage
    assert again.warnings == memory.warnings
