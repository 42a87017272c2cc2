"""Memories held in eight bits (``kv_dtype``), together with everything that can be done with a memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import videoxl
from tests.inference.memories import pictures, seconds
from videoxl.config import KV_DTYPES, check_kv_dtype
from videoxl.inference import kv_dtype as choosing
from videoxl.inference.plan.planner import plan
from videoxl.memory.quantised import kv_dtype_of
from videoxl.memory.video_memory import VideoMemory

CASES = [("tiny", "full"), ("tiny", "chunked:chunk_size=4,step_size=2"), ("tiny-v1", "beacon:ratio=4")]
NEAR = {"int8": 0.03, "fp8": 0.2}
"""Largest relative error of keys and values, root mean square."""


def read(engine, count=22, **settings) -> VideoMemory:
    return engine.encode(frames=pictures(count), timestamps=seconds(count), **settings)


@pytest.mark.parametrize("name", KV_DTYPES)
@pytest.mark.parametrize(("model", "prefill"), CASES)
def test_everything_that_can_be_done_with_a_memory(engines, model, prefill, name, tmp_path):
    engine = engines[model]
    whole = read(engine, 22, prefill=prefill, kv_dtype=name)
    memory = read(engine, 13, prefill=prefill, kv_dtype=name)
    memory.extend(pictures(22)[13:], timestamps=seconds(22)[13:])
    assert memory.usage.kv_dtype == kv_dtype_of(memory.cache) == name
    assert memory.token_ids == whole.token_ids
    for left, right in zip(memory.cache.layers, whole.cache.layers):
        assert torch.allclose(left.keys, right.keys, atol=0.05 * float(right.keys.abs().max()))
    assert memory.nbytes < 0.55 * read(engine, 22, prefill=prefill).nbytes
    asked = {"question": "What moves?", "max_new_tokens": 4}
    text = engine.ask(memory, **asked).text
    assert "".join(piece.text for piece in engine.stream(memory, **asked)) == text
    assert engine.ask(memory, **asked, num_beams=2).text is not None
    together = engine.ask(memory, ["What moves?", "Where?"], max_new_tokens=4)
    assert together[0].text == text
    chat = engine.chat_session(memory)
    assert chat.ask("What moves?", max_new_tokens=4).text == text
    chat.ask("And then?", max_new_tokens=4)
    memory.save(tmp_path / "memory.vxl")
    loaded = VideoMemory.load(tmp_path / "memory.vxl", engine)
    assert loaded.tiers["disk"] > 0
    assert loaded.nbytes == memory.nbytes
    assert engine.ask(loaded, **asked).text == text
    assert kv_dtype_of(loaded.cache) == name
    loaded.extend(pictures(4, seed=3), timestamps=[20.0, 20.5, 21.0, 21.5])
    assert kv_dtype_of(loaded.cache) == name
    if model == "tiny":
        assert engine.ask(memory, **asked, decode="bilevel:top_k=1,block_size=1").text is not None
        fork = memory.fork()
        fork.trim(start=4.0)
        assert kv_dtype_of(fork.cache) == name
        assert engine.ask(fork, **asked).text is not None
        assert fork.nbytes < memory.nbytes


@pytest.mark.parametrize("name", KV_DTYPES)
@pytest.mark.parametrize(("model", "prefill"), CASES)
def test_keys_and_values_are_near_the_exact_ones(engines, model, prefill, name):
    exact, held = (read(engines[model], prefill=prefill, kv_dtype=kv) for kv in (None, name))
    for left, right in zip(held.cache.layers, exact.cache.layers):
        for which in ("keys", "values"):
            error = (getattr(left, which) - getattr(right, which)).norm() / getattr(right, which).norm()
            assert float(error) < NEAR[name]


def test_tiles_do_not_change_what_is_read(engines):
    prefill = "chunked:chunk_size=4,step_size=2,vision_batch={}"
    one, other = (read(engines["tiny"], 40, prefill=prefill.format(n), kv_dtype="int8") for n in (3, 24))
    for left, right in zip(one.cache.layers, other.cache.layers):
        assert torch.allclose(left.keys, right.keys, atol=0.05)


def test_what_cannot_be_held_so_is_refused(engines):
    with pytest.raises(ValueError, match=r"kv_dtype='int8' is for keys and values on the GPU, and offload=True"):
        read(engines["tiny"], prefill="chunked:offload=true", kv_dtype="int8")
    with pytest.raises(ValueError, match="unknown kv_dtype 'int4'; allowed: auto, int8, fp8"):
        read(engines["tiny"], kv_dtype="int4")
    assert check_kv_dtype("auto") is None


def test_a_device_without_fp8_says_so_and_takes_int8(engines, monkeypatch):
    monkeypatch.setattr(choosing, "usable", lambda name, device: name != "fp8")
    memory = read(engines["tiny"], kv_dtype="fp8")
    assert kv_dtype_of(memory.cache) == memory.usage.kv_dtype == "int8"
    assert memory.warnings == ("cpu has no fp8: keys and values are held in int8, which takes as much",)


@pytest.mark.parametrize("prefill", ["full", "chunked"])
def test_the_plan_counts_them_exactly(engines, tiny_folder, prefill):
    video = np.zeros((40, 30, 40, 3), np.uint8)
    planned = plan(video, model=str(tiny_folder), device="cpu", prefill=prefill, kv_dtype="int8")
    memory = engines["tiny"].encode(frames=video, prefill=prefill, kv_dtype="int8")
    assert planned.memory_bytes == memory.nbytes == memory.usage.memory_bytes
    assert "keys and values in int8" in str(planned)


def test_one_call_takes_it_too(engines):
    answer = engines["tiny"].answer(pictures(8), "What?", kv_dtype="int8", max_new_tokens=2)
    assert isinstance(answer, videoxl.Answer)
