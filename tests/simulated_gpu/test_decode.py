"""Answers on a simulated GPU: fixed buffers, one captured graph, and the same tokens as on a CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import videoxl
from tests.simulated_gpu.cuda import move, simulated
from tests.simulated_gpu.device import SimulatedDevices
from tests.simulated_gpu.true_size import true_size_engine
from videoxl.config import Generation
from videoxl.inference.decode import scoring, steps
from videoxl.inference.decode.bilevel import coarse_kv_for
from videoxl.inference.decode.graph import CAPTURE_BEHIND
from videoxl.inference.decode.likelihood import Likelihoods
from videoxl.inference.decode.loop import decode_tokens
from videoxl.inference.decode.relevance import group_masses
from videoxl.inference.engine import VideoXL
from videoxl.inference.evidence import QueryWatch, watched_layers
from videoxl.memory.video_memory import VideoMemory
from videoxl.model import flash

LAYERS = 2
AROUND_A_GROUP = 2
"""Copies of the last token before some tokens are written, and of those written."""
LAUNCHES_A_TOKEN = 320
"""Outside a graph, of a model of 28 layers."""
OUTSIDE_OF_LAYERS = 9
"""Embedding, last norm, head, choice, three to note it and its logits, and two counters."""
WATCHED = 5
"""Layers of 28 whose queries are noted as evidence."""
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "seed": 3},
    "penalised": {"repetition_penalty": 1.5},
}


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8))


def write(engine: VideoXL, memory: VideoMemory, settings: Generation, keep_logits: bool = False) -> tuple[Any, ...]:
    """Ids, logits, and the keys and values of what was read and written; queries and likelihoods of every token."""
    cache, likely, watch = memory.cache.fork(), Likelihoods(), QueryWatch(watched_layers(engine.config))
    ids = [*memory.token_ids, *engine.chat_format.suffix("What is shown?")]
    how: dict[str, Any] = {"keep_logits": keep_logits, "watch": watch, "record": likely}
    tokens = list(decode_tokens(engine.model, ids, cache, settings, **how))
    assert len(cache) == len(ids) + len(tokens) - 1
    states = [part.cpu().clone() for layer in cache.layers for part in (layer.keys, layer.values)]
    logits = [t.logits_V.cpu() for t in tokens if t.logits_V is not None]
    seen = [rows.queries_NLE.cpu() for rows in watch.rows(len(tokens), len(ids)).values()]
    seen.append(torch.tensor([chance.logprob for chance in likely.of_all(1)[0]]))
    return [t.id for t in tokens], logits, states, seen


def settings(way: str) -> Generation:
    return Generation(max_new_tokens=3 * CAPTURE_BEHIND, **WAYS[way])


def largest_difference(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def test_launches_waits_and_bytes_of_a_token_at_true_size() -> None:
    with simulated() as devices:
        engine = true_size_engine("video-xl-2", devices, layers=LAYERS)
        side = engine.config.vision_config.image_size
        memory = engine.encode(frames=[np.zeros((side, side, 3), np.uint8)] * 8, fps=1)
        found = {}
        for tokens in (2, 2, 4, 9, 16, 32):
            with devices.counting() as found[tokens]:
                cache, ids = memory.cache.fork(), [*memory.token_ids, *engine.chat_format.suffix("What is shown?")]
                list(decode_tokens(engine.model, ids, cache, Generation(max_new_tokens=tokens)))
        layer = (found[4].kernels - found[2].kernels - 2 * OUTSIDE_OF_LAYERS - AROUND_A_GROUP) / 2 / LAYERS
        assert layer == 9
        assert layer * 28 + OUTSIDE_OF_LAYERS + WATCHED <= LAUNCHES_A_TOKEN
        assert found[32].kernels - found[16].kernels == 16 + 2 * AROUND_A_GROUP
        assert found[32].waits - found[16].waits == 2
        weights = sum(p.numel() * p.element_size() for p in engine.model.model.language_model.layers.parameters())
        weights += engine.model.lm_head.weight.numel() * 2
        cache = memory.cache.nbytes
        moved = (found[32].moved["device"] - found[16].moved["device"]) / 16
        assert moved <= 1.02 * (weights + cache)
        assert found[32].attention_kinds() == {"flash varlen"}


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[SimulatedDevices, VideoXL, VideoMemory, dict[str, tuple[Any, ...]]]]:
    """``tiny`` in float32 on a GPU whose flash attention takes that, and what it writes on a CPU."""
    on_cpu = videoxl.load("tiny", device="cpu")
    read = on_cpu.encode(frames=pictures(16), fps=1)
    expected = {way: write(on_cpu, read, settings(way), keep_logits=True) for way in WAYS}
    engine = videoxl.load("tiny", device="cpu")
    with pytest.MonkeyPatch.context() as patch, simulated(real=True) as devices:
        patch.setattr(flash, "HALF", (torch.float32,))
        move(engine.model, devices)
        engine.model.model.language_model.fuse_projections()
        yield devices, engine, engine.encode(frames=pictures(16), fps=1), expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep_logits", [False, True])
def test_tokens_logits_and_cache_are_those_of_the_cpu(small: Any, way: str, keep_logits: bool) -> None:
    _, engine, memory, expected = small
    ids, logits, states, seen = write(engine, memory, settings(way), keep_logits)
    assert ids == expected[way][0]
    assert not keep_logits or largest_difference(logits, expected[way][1]) < 1e-4
    assert largest_difference(states, expected[way][2]) < 1e-4
    assert largest_difference(seen, expected[way][3]) < 1e-4


def test_an_answer_goes_on_behind_the_room_made_at_once(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine, memory, expected = small
    monkeypatch.setattr(steps, "ROOM", 10)
    steps.FIXED.clear()
    assert write(engine, memory, settings("greedy"))[0] == expected["greedy"][0]
    steps.FIXED.clear()


def test_the_next_question_starts_with_the_graph_of_the_first_unless_weights_moved(small: Any) -> None:
    devices, engine, memory, expected = small
    first = expected["greedy"][0]
    write(engine, memory, settings("greedy"))
    with devices.counting() as counts:
        assert write(engine, memory, settings("greedy"))[0] == first
    assert counts.launches["graph"] == len(first) - 1
    head = engine.model.model.language_model.layers[0].self_attn.o_proj
    before = head.weight
    try:
        head.weight = torch.nn.Parameter(before * 1.0, requires_grad=False)
        with devices.counting() as counts:
            assert write(engine, memory, settings("greedy"))[0] == first
        assert 0 < counts.launches["graph"] < len(first) - 1
    finally:
        head.weight = before
        steps.FIXED.clear()


def test_where_nothing_can_be_captured_a_warning_says_so_once(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    devices, engine, memory, expected = small
    steps.FIXED.clear()

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no graphs on this device")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with warnings.catch_warnings(record=True) as told, devices.counting() as counts:
        warnings.simplefilter("always")
        assert write(engine, memory, settings("greedy"))[0] == expected["greedy"][0]
    assert [str(w.message) for w in told if "no graphs on this device" in str(w.message)] == [str(told[0].message)]
    assert not counts.launches["graph"]
    steps.FIXED.clear()


def test_a_model_with_hooks_is_called_as_a_whole(small: Any) -> None:
    devices, engine, memory, expected = small
    called: list[int] = []
    layer = engine.model.model.language_model.layers[1]
    hook = layer.register_forward_hook(lambda *_: called.append(1))
    try:
        with devices.counting() as counts:
            ids = write(engine, memory, settings("greedy"))[0]
    finally:
        hook.remove()
    assert ids == expected["greedy"][0]
    assert len(called) == len(ids)
    assert not counts.launches["graph"]


TWO_LEVELS = "bilevel:top_k=1,block_size=1"


def test_a_bi_level_question_finds_the_buffers_and_the_graph_of_the_one_before(small: Any) -> None:
    devices, engine, memory, _ = small
    on_cpu = videoxl.load("tiny", device="cpu")
    read = on_cpu.encode(frames=pictures(16), fps=1)
    how: dict[str, Any] = {"decode": TWO_LEVELS, "max_new_tokens": 3 * CAPTURE_BEHIND, "evidence": False}
    memory = memory.fork()
    launched = []
    questions = ["Where is it, then?", "And where is it now?"]
    expected = [on_cpu.ask(read, question, **how).text for question in questions]
    for question, text in zip(questions, expected):
        with devices.counting() as counts:
            answer = engine.ask(memory, question, **how)
        assert answer.text == text
        assert answer.usage.new_tokens > CAPTURE_BEHIND + 1
        launched.append((counts.launches["graph"], answer.usage.new_tokens))
    assert 0 < launched[0][0] < launched[0][1] - 1
    assert launched[1][0] >= launched[1][1] - 1
    assert memory.tiers["device"] > memory.nbytes
    assert [answer.text for answer in engine.ask(memory, questions, **how)] == expected
    steps.FIXED.clear()


def test_scores_of_some_heads_at_a_time_are_those_of_all(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine, memory, _ = small
    ids = engine.chat_format.suffix("What is shown?")
    level = coarse_kv_for(engine.model, memory, 4)
    masses = group_masses(engine.model, memory.cache, level, ids, 5)
    total = level.layout.prefix_length + len(level) + len(ids)
    text = engine.config.text
    one_head = text.num_attention_heads // text.num_key_value_heads * len(ids) * total
    monkeypatch.setattr(scoring, "SCORES_AT_ONCE", one_head)
    assert text.num_key_value_heads > 1
    assert np.abs(group_masses(engine.model, memory.cache, level, ids, 5) - masses).max() < 1e-6
    monkeypatch.setattr(scoring, "SCORES_AT_ONCE", one_head - 1)  # written out by the forward of the model
    assert np.abs(group_masses(engine.model, memory.cache, level, ids, 5) - masses).max() < 1e-6
