"""Bi-level decoding: what a question reads densely, how that is chosen, and that nothing else changes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import videoxl
from tests.model.builders import difference
from videoxl import BiLevelDecode, ChunkedPrefill, DenseDecode, FullPrefill, Generation, VideoMemory
from videoxl.inference.decode import bilevel
from videoxl.inference.decode.bilevel import Question, coarse_kv_for, start_from
from videoxl.inference.decode.released_units import ReleasedUnits, released_selection
from videoxl.inference.decode.relevance import ScoringPlan, attention_scores, group_masses
from videoxl.memory.kv_cache import KVCache, PreallocatedLayer
from videoxl.memory.pooling import blocks_of, interleave, plan_interleave
from videoxl.model.attention import CausalPlan, rotate

QUESTION = "What happens at 3 seconds?"
SHORT = Generation(max_new_tokens=8)
GROUPS = 12
FEW = BiLevelDecode(block_size=2, top_k=1)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (4 * GROUPS, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def memory(tiny, pictures) -> VideoMemory:
    return tiny.encode(pictures, fps=2)


def question_of(tiny, text: str = QUESTION) -> Question:
    ids = tiny.chat_format.suffix(text)
    return Question(text, ids, len(ids))


def states(memory: VideoMemory) -> list[torch.Tensor]:
    return [t.clone() for layer in memory.cache.layers for t in (layer.keys, layer.values)]


# -------------------------------------------------------------------------------------------------- what is read


def test_a_question_reads_first_last_and_best_blocks(tiny, memory):
    decode = BiLevelDecode(block_size=2, top_k=2, relevance=lambda memory, question: [9, 0, 3, 5, 4, 1])
    answer = tiny.ask(memory, QUESTION, decode=decode, generation=SHORT)
    # blocks of two groups of four frames at 2 fps: 4 s each
    assert [(s.start, s.end) for s in answer.read] == [(0, 4), (12, 16), (16, 20), (20, 24)]
    assert [s.relevance for s in answer.read] == pytest.approx([1, 5 / 9, 4 / 9, 1 / 9])
    usage = answer.usage
    assert usage.decode == "bilevel:top_k=2,block_size=2,relevance=<lambda>"
    assert usage.memory_tokens == len(memory.token_ids)
    level = coarse_kv_for(tiny.model, memory, 4)
    dense = sum(g.token_end - g.token_start for g in memory.groups)
    saved = sum(g.token_end - g.visual_start - 4 for g in (*memory.groups[2:6],))
    assert usage.read_tokens == memory.prefix_length + dense - saved
    assert usage.prompt_tokens == len(tiny.chat_format.suffix(QUESTION))
    assert usage.seconds["select"] > 0
    assert len(level) == sum(g.visual_start - g.token_start + 4 for g in memory.groups)


def test_a_function_may_judge_groups(tiny, memory):
    per_group = [0.0] * 5 + [3.0] + [2.0] * 6
    decode = BiLevelDecode(block_size=2, top_k=1, relevance=lambda memory, question: per_group)
    answer = tiny.ask(memory, QUESTION, decode=decode, generation=SHORT)
    assert [(s.start, s.relevance) for s in answer.read] == [(0, 0.0), (8, 1.0), (20, pytest.approx(2 / 3))]


def test_named_blocks_are_read_whatever_their_number(tiny, memory):
    answer = tiny.ask(memory, QUESTION, decode=BiLevelDecode(block_size=2, top_k=1, relevance=[2, 3]), generation=SHORT)
    assert [(s.start, s.relevance) for s in answer.read] == [(0, 0.0), (8, 1.0), (12, 1.0), (20, 0.0)]
    assert tiny.ask(memory, QUESTION, decode=str(BiLevelDecode(block_size=2, relevance=[2, 3])), generation=SHORT)


@pytest.mark.parametrize("decode", [BiLevelDecode(block_size=2, top_k=4), BiLevelDecode(block_size=5, top_k=1)])
def test_with_room_for_all_blocks_nothing_differs(tiny, memory, decode):
    """Bit for bit: the memory itself is read."""
    want, got = (tiny.ask(memory, QUESTION, decode=d, generation=SHORT) for d in (DenseDecode(), decode))
    assert got.token_ids == want.token_ids
    assert got.read == want.read
    assert got.usage.read_tokens == len(memory.token_ids)
    assert start_from(tiny.model, memory, decode, question_of(tiny)).cache is memory.cache


def test_a_mix_with_everything_dense_is_the_memory(tiny, memory):
    level = coarse_kv_for(tiny.model, memory, 4)
    plan = plan_interleave(level, np.ones(GROUPS, dtype=bool))
    mixed = interleave(memory.cache, level, plan, tiny.model.model.language_model)
    assert plan.ids == memory.token_ids
    for made, held in zip(mixed.layers, memory.cache.layers):
        assert torch.equal(made.values, held.values)
        assert difference(made.keys, held.keys) < 1e-5  # measured: 1.2e-7; keys are turned back and forth


def test_asking_leaves_the_memory_alone(tiny, memory):
    before, ids = states(memory), memory.token_ids
    dense = tiny.ask(memory, QUESTION, generation=SHORT)
    answers = [tiny.ask(memory, QUESTION, decode=FEW, generation=SHORT) for _ in range(2)]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].read == answers[1].read
    assert tiny.ask(memory, QUESTION, generation=SHORT).token_ids == dense.token_ids
    assert memory.token_ids == ids
    assert all(torch.equal(a, b) for a, b in zip(states(memory), before))


def test_the_pooled_level_is_made_once_and_again_when_the_memory_grows(tiny, pictures):
    memory = tiny.encode(pictures[: 4 * 8], fps=2)
    level = coarse_kv_for(tiny.model, memory, 4)
    assert coarse_kv_for(tiny.model, memory, 4) is level
    assert coarse_kv_for(tiny.model, memory, 2) is not level
    assert coarse_kv_for(tiny.model, memory.fork(), 4) is level
    grown = memory.fork()
    grown.extend(pictures[4 * 8 :])
    assert len(coarse_kv_for(tiny.model, grown, 4)) > len(level)
    assert len(coarse_kv_for(tiny.model, memory, 4)) == len(level)


@pytest.mark.parametrize("prefill", ["full", "chunked", "chunked:offload=true", "chunked:chunk_size=4,step_size=1"])
def test_any_prefill_and_every_way_to_ask(tiny, pictures, prefill):
    memory = tiny.encode(pictures, fps=2, prefill=prefill)
    asked = tiny.ask(memory, QUESTION, decode=FEW, generation=SHORT)
    assert list(tiny.stream(memory, QUESTION, decode=FEW, generation=SHORT))[-1].answer.token_ids == asked.token_ids
    assert tiny.chat_session(memory, decode=FEW).ask(QUESTION, generation=SHORT).token_ids == asked.token_ids
    assert tiny.continue_conversation(memory, [], QUESTION, SHORT, FEW).token_ids == asked.token_ids
    whole = tiny.answer(pictures, QUESTION, fps=2, prefill=prefill, decode=FEW, generation=SHORT)
    assert whole.token_ids == asked.token_ids
    assert whole.read == asked.read


def test_offloaded_the_answers_are_the_same(tiny, pictures):
    here, there = (tiny.encode(pictures, fps=2, prefill=ChunkedPrefill(offload=o)) for o in (False, True))
    for decode in (DenseDecode(), FEW):
        answers = [tiny.ask(m, QUESTION, decode=decode, generation=SHORT) for m in (here, there)]
        assert answers[0].token_ids == answers[1].token_ids
        assert answers[0].read == answers[1].read


def test_every_turn_of_a_chat_chooses_anew_and_sees_those_before(tiny, memory):
    asked = []

    def relevance(memory, question):
        asked.append(question)
        return [0, 1, 0, 0, 0, 0] if question == "One?" else [0, 0, 0, 0, 1, 0]

    chat = tiny.chat_session(memory, decode=BiLevelDecode(block_size=2, top_k=1, relevance=relevance))
    first = chat.ask("One?", generation=SHORT)
    second = chat.ask("Two?", generation=SHORT)
    assert asked == ["One?", "Two?"]
    assert [s.start for s in first.read] == [0, 4, 20]
    assert [s.start for s in second.read] == [0, 16, 20]
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + len(first.token_ids)
    alone = tiny.chat_session(memory, decode=chat.decode).ask("Two?", generation=SHORT)
    assert second.usage.read_tokens == alone.usage.read_tokens


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        ([6], r"relevance names block 6, but in blocks of 2 groups the video has 6: 0 to 5"),
        (lambda m, q: [1, 2], r"must give a finite number for each of the 6 blocks of 2 groups, got \[1.0, 2.0\]"),
        (lambda m, q: [float("nan")] * 6, r"must give a finite number for each of the 6 blocks"),
        ("siglip", "relevance='siglip' needs"),
    ],
)
def test_relevance_that_cannot_be(tiny, memory, relevance, message):
    with pytest.raises(ValueError, match=message):
        tiny.ask(memory, QUESTION, decode=BiLevelDecode(block_size=2, top_k=1, relevance=relevance))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k must be a whole number of at least 1"),
        ({"pool": 0}, "pool must be a whole number"),
        ({"block_size": 2.5}, "block_size must be a whole number"),
        (
            {"relevance": "eyes"},
            "relevance must be one of attention, siglip, words, several .*, block numbers or a function, got 'eyes'",
        ),
        ({"relevance": []}, r"must name at least one block by its number from 0, got \[\]"),
        ({"relevance": [-1]}, "must name at least one block by its number from 0"),
        ({"relevance": 3}, "relevance must be a name, block numbers or a function, got int"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        BiLevelDecode(**settings)


@pytest.mark.parametrize(
    "decode",
    [BiLevelDecode(), BiLevelDecode(top_k=3, pool=12), BiLevelDecode(relevance=[7, 3]), BiLevelDecode(relevance=[4])],
)
def test_a_strategy_is_its_text_and_back(decode):
    assert videoxl.config.decode_from_string(str(decode)) == decode
    assert str(BiLevelDecode(relevance=[7, 3])) == "bilevel:relevance=3+7"


def test_other_families_have_no_two_levels(tiny, memory, monkeypatch):
    monkeypatch.setattr(tiny.config, "family", "video-xl")
    with pytest.raises(ValueError, match="bi-level decoding is for video-xl-2 and qwen3-vl, this model is of video-xl"):
        tiny.ask(memory, QUESTION, decode=FEW)


# ------------------------------------------------------------------------------------------------------ relevance


def test_masses_are_the_attention_of_the_question_to_visual_tokens(tiny, memory):
    """Against plain attention, written out, in which every average stands there as often as it has tokens."""
    level = coarse_kv_for(tiny.model, memory, 4)
    asked = question_of(tiny)
    got = group_masses(tiny.model, memory.cache, level, asked.ids, rows=5)
    cache = interleave(
        memory.cache,
        level,
        plan_interleave(level, np.zeros(GROUPS, dtype=bool)),
        tiny.model.model.language_model,
    )
    visual = np.array([*memory.token_ids[: memory.prefix_length], *level.ids]) == tiny.config.video_token_id
    source = np.repeat(np.arange(len(visual)), np.where(visual, 4, 1))
    repeated = KVCache([PreallocatedLayer.holding(h.keys[:, :, source], h.values[:, :, source]) for h in cache.layers])
    attentions = weights_of(tiny.model.model.language_model, asked.ids, len(visual), repeated)
    group = np.concatenate([np.full(memory.prefix_length, -1), np.repeat(np.arange(GROUPS), np.diff(level.offsets))])
    seen = [np.flatnonzero((visual & (group == g))[source]) for g in range(GROUPS)]
    want = torch.cat([torch.stack([layer[0, :, -5:, s].sum(-1).mean(-1) for s in seen], dim=1) for layer in attentions])
    assert got.shape == want.shape
    assert np.abs(got - want.double().numpy()).max() < 1e-6  # measured: 6e-8


@torch.inference_mode()
def weights_of(language_model, ids: list[int], position: int, cache: KVCache) -> list[torch.Tensor]:
    """Attention weights ``[1, N, L, S]`` of every layer, for text at ``position`` behind a cache of any length."""

    class Written(CausalPlan):
        def attend(self, layer, queries, keys, values):
            out = super().attend(layer, queries, keys, values)
            cos, sin = (table[:, None] for table in self.tables(queries))
            held = self.cache.layers[layer.layer_idx].keys.repeat_interleave(layer.num_key_value_groups, 1)
            scores = rotate(queries, cos, sin) @ held.transpose(-1, -2) * layer.scaling
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(scores.shape[-1] - scores.shape[-2] + 1)
            found.append(scores.masked_fill(later, -torch.inf).softmax(-1))
            return out

    found: list[torch.Tensor] = []
    positions = torch.arange(len(ids))[None] + position
    tables = lambda like: language_model.rotary_emb(positions, like.device, like.dtype)  # noqa: E731
    language_model.run_plan(language_model.embed_tokens(torch.tensor([ids])), Written(tables, cache))
    return found


def test_a_block_is_as_relevant_as_its_best_group(tiny, memory, monkeypatch):
    """On average over heads: one that finds a group outweighs many that look everywhere."""
    masses = np.full((3, GROUPS), 0.01)
    masses[1, 7] = 0.1
    level = coarse_kv_for(tiny.model, memory, 3)
    monkeypatch.setattr("videoxl.inference.decode.relevance.group_masses", lambda *given: masses)
    scores = attention_scores(tiny.model, memory.cache, level, blocks_of(GROUPS, 2), range(9), rows=9)
    assert scores == pytest.approx([0.01, 0.01, 0.01, 0.04, 0.01, 0.01])


def test_what_is_found_is_read(tiny, memory, monkeypatch):
    """In one head, the averages of one group are turned to what the question looks for: its block is chosen."""
    planted, decode = memory.fork(), BiLevelDecode(block_size=1, top_k=1)
    level = coarse_kv_for(tiny.model, planted, 4)
    direction = queries_of(tiny, memory, level, "Where is the red ball?", monkeypatch).mean(1)[0]
    # of the first query head, which reads the first key head
    here = slice(int(level.offsets[6]), int(level.offsets[7]))
    positions = torch.arange(here.start, here.stop) + memory.prefix_length
    towards = (60 * direction / direction.norm() ** 2).expand(1, 1, len(positions), -1)
    keys = [k.clone() for k in level.keys]
    keys[-1][:, :1, here] = tiny.model.model.language_model.inverse_rope(towards, positions)
    coarse = {4: dataclasses.replace(level, keys=tuple(keys))}
    planted.state = dataclasses.replace(planted.state, coarse_kv=coarse)
    answer = tiny.ask(planted, "Where is the red ball?", decode=decode, generation=SHORT)
    assert max(answer.read, key=lambda s: s.relevance).start == planted.groups[6].start_s


def queries_of(tiny, memory, level, text: str, monkeypatch) -> torch.Tensor:
    """Rotated queries ``[N, L, E]`` of the last layer when a question is read against the pooled memory."""
    seen, noted = [], ScoringPlan._noted
    with monkeypatch.context() as patch:
        patch.setattr(ScoringPlan, "_noted", lambda step, q, *rest: (seen.append(q), noted(step, q, *rest))[1])
        group_masses(tiny.model, memory.cache, level, tiny.chat_format.suffix(text), 1)
    return seen[-1][0].clone()


# ------------------------------------------------------------------------------------------------ released files


@pytest.fixture
def selections(tmp_path):
    config = {"selected_topk": 2, "selected_chunk_size": 4, "compression": 12, "relevance oracle": "x"}
    path = tmp_path / "selected.json"
    path.write_text(
        json.dumps(
            {
                "count": {"config": config, "selected_unit_indices": {"q1": [5, 2], "q2": [], "q5": [1]}},
                "order": None,
                "plot": {
                    "config": {**config, "selected_chunk_size": 5},
                    "selected_unit_indices": {"q3": [4], "q5": [0]},
                },
            }
        )
    )
    return path


def test_a_released_selection_is_repeated(selections, tiny, memory):
    got = released_selection(selections, "q1")
    assert got.prefill is None
    assert (got.decode.block_size, got.decode.pool) == (4, 12)
    assert got.decode.relevance.blocks() == (1, 2)
    assert released_selection(selections, "q3").decode.relevance.blocks() == (1,)  # 4 // 2.5, not 4 // 2
    assert released_selection(selections, "q2") == (None, DenseDecode())
    assert released_selection(selections, "anything", "order") == (FullPrefill(), DenseDecode())
    assert released_selection(selections, "q5", "plot").decode.relevance == ReleasedUnits((0,), 5)
    answer = tiny.ask(memory, QUESTION, decode=got.decode, generation=SHORT)
    assert answer.usage.decode == "bilevel:top_k=2,pool=12,relevance=2 released units"
    beyond = BiLevelDecode(block_size=4, relevance=ReleasedUnits((40,), 4))
    assert [s.start for s in tiny.ask(memory, QUESTION, decode=beyond, generation=SHORT).read] == [0, 16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("q9",), "question 'q9' is nowhere in"),
        (("q5",), "question 'q5' is in 2 categories"),
        (("q1", "nope"), "has no category 'nope'; it has count, order, plot"),
        (("q1", "plot"), "category 'plot' of .* has no question 'q1'"),
    ],
)
def test_a_question_that_is_not_in_a_selection(selections, arguments, message):
    with pytest.raises(ValueError, match=message):
        released_selection(selections, *arguments)


@pytest.mark.parametrize("text", ["", "[]", '{"a": {}}', '{"a": {"config": {}, "selected_unit_indices": {}}}'])
def test_a_file_that_is_no_selection(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no released selection"):
        released_selection(path, "q1")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        released_selection(tmp_path / "none.json", "q1")


def test_scores_are_told_between_0_and_1():
    assert bilevel.unit_scores(np.array([2.0, 4.0, 3.0])) == [0.0, 1.0, 0.5]
    assert bilevel.unit_scores(np.array([2.0, 2.0])) == [1.0, 1.0]
    assert bilevel.best_blocks(np.array([9.0, 1.0, 3.0, 3.0, 9.0]), 2) == [2, 3]
