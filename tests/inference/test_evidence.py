"""Evidence is the attention of the rows that wrote the answer: against attention written out, in every way to ask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.inference.memories import pictures, seconds
from tests.model.builders import pro_model
from tests.model.random_tiny import tiny_tokenizer
from videoxl import Generation
from videoxl.inference import evidence
from videoxl.inference.asking import Asked
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.engine import VideoXL
from videoxl.inference.evidence import QueryWatch, group_masses, rows_of_answer, watched_layers
from videoxl.inference.evidence_spans import EvidenceSpan, GroupTokens, UnknownTokensError, spans_of
from videoxl.memory.layout import Group
from videoxl.memory.video_memory import VideoMemory

QUESTION = "What happens at 3 seconds?"
SHORT = Generation(max_new_tokens=6)
WAYS = [
    ("tiny", "full", "dense"),
    ("tiny", "chunked:chunk_size=4,step_size=2", "dense"),
    ("tiny", "chunked:chunk_size=4,step_size=2,offload=true", "dense"),
    ("tiny", "full", "bilevel:top_k=1,block_size=2,pool=4"),
    ("tiny-v1", "beacon", "dense"),
    ("tiny-v1", "beacon:ratio=12", "dense"),
    ("tiny-v1", "beacon:ratio=2+8,mix=sequence", "dense"),
    ("tiny-v1", "full", "dense"),
    ("pro", "selective:keep=0.3", "dense"),
]


@pytest.fixture(scope="module")
def asked(engines):
    """Of every way the engine, the memory and the answer."""
    engines = {**engines, "pro": VideoXL(pro_model(), tiny_tokenizer(), name="pro")}
    memories = {}
    found = {}
    for way in WAYS:
        name, prefill, decode = way
        if (name, prefill) not in memories:
            memories[name, prefill] = engines[name].encode(pictures(39), timestamps=seconds(39), prefill=prefill)
        memory = memories[name, prefill]
        found[way] = (engines[name], memory, engines[name].ask(memory, QUESTION, decode=decode, generation=SHORT))
    return found


def start_of(engine, memory, decode, question=QUESTION):
    tail = engine.chat_format.suffix(question)
    decode = choose_decode(decode, engine.config)
    return tail, engine._asking.start(Asked(memory, question, tail, SHORT, decode, len(tail)))


def telling(engine, new_ids) -> tuple[int, ...]:
    """The tokens whose rows count: an end says nothing, unless there is nothing else."""
    return new_ids[:-1] if new_ids[-1] in engine.end_ids and len(new_ids) > 1 else new_ids


@torch.inference_mode()
def plain_masses(engine, start, tail, new_ids, layers) -> np.ndarray:
    """Attention per token of the memory as read, mean over rows, heads and layers, from one forward, written out."""
    model, fed = engine.model, [*tail, *new_ids[:-1]]
    language_model, cache = model.model.language_model, start.cache.fork()
    embeds = model.get_input_embeddings()(torch.tensor([fed]))
    states = language_model(inputs_embeds=embeds, past_key_values=cache, output_hidden_states=True).hidden_states
    total, found = len(start.ids) + len(fed), np.zeros(len(start.ids))
    places = torch.arange(len(start.ids), total)
    for layer in layers:
        block = language_model.decoder_layers[layer]
        q = language_model.apply_rope(block.self_attn.project("q", block.input_layernorm(states[layer])), places)[0]
        keys = cache.layers[layer].keys[0].repeat_interleave(len(q) // cache.layers[layer].keys.shape[1], 0)
        scores = q @ keys.transpose(1, 2) * block.self_attn.scaling
        scores = scores.masked_fill(torch.arange(total)[None, None] > places[None, :, None], -torch.inf)
        found += scores.softmax(-1)[:, -len(new_ids) :, : len(start.ids)].mean((0, 1)).double().numpy()
    return found / len(layers)


def plain_groups(engine, memory, ids) -> list[dict[int, float]]:
    """Per group its tokens in ``ids`` and their part in it, walked through one by one."""
    visual, groups = (engine.config.video_token_id, engine.config.image_token_id), memory.groups
    found: list[dict[int, float]] = [{} for _ in groups]
    if memory.usage.window_ratios:  # one beacon is behind so many tokens, counted on from window to window
        place, raw, remainder, per = memory.prefix_length, 0, 0, engine.config.tokens_per_group
        for ratio in memory.usage.window_ratios:
            waiting = remainder
            for _ in range(min(engine.config.beacon_window, len(groups) * per - raw)):
                raw, waiting = raw + 1, waiting + 1
                if waiting == ratio:
                    for token in range(raw - ratio, raw):
                        found[token // per][place] = found[token // per].get(place, 0) + 1 / ratio
                    place, waiting = place + 1, 0
            remainder = waiting
        assert place == len(ids)
        return found
    place = memory.prefix_length
    for number, group in enumerate(groups):
        end = place + group.visual_start - group.token_start
        most = end + group.token_end - group.visual_start if end == place else len(ids)
        while end < most and ids[end] in visual:
            end += 1
        found[number] = dict.fromkeys(range(place, end), 1.0)
        place = end
    assert place == len(ids)
    return found


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_it_is_the_attention_of_the_rows_that_wrote_the_answer(asked, way):
    engine, memory, answer = asked[way]
    tail, start = start_of(engine, memory, way[2])
    mass = plain_masses(engine, start, tail, telling(engine, answer.token_ids), watched_layers(engine.config))
    want_G = np.array([sum(mass[t] * w for t, w in part.items()) for part in plain_groups(engine, memory, start.ids)])
    cache = start.cache.fork()
    rows = rows_of_answer(
        engine.model, [*start.ids, *tail], telling(engine, answer.token_ids), cache, watched_layers(engine.config)
    )
    got_G = group_masses(rows, cache, GroupTokens.of(memory, start.ids, engine.config), engine.config)
    np.testing.assert_allclose(got_G, want_G, rtol=1e-4, atol=1e-7)  # worst measured 4e-6, relative
    assert 0 < got_G.sum() < 1
    expected = spans_of(want_G, memory.groups)
    assert [span[:2] for span in answer.evidence] == [span[:2] for span in expected]
    assert [span.share for span in answer.evidence] == pytest.approx([span.share for span in expected], abs=2e-4)
    assert not [w for w in answer.warnings if "evidence" in w]


def test_scores_in_pieces_are_the_same(asked, monkeypatch):
    for way in (WAYS[0], WAYS[4]):
        engine, memory, answer = asked[way]
        monkeypatch.setattr(evidence, "SCORES_AT_ONCE", 1)
        assert engine.ask(memory, QUESTION, generation=SHORT).evidence == answer.evidence


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2], WAYS[3], WAYS[4]], ids=str)
def test_every_way_to_ask_has_it(asked, way):
    engine, memory, answer = asked[way]
    decode = way[2]
    streamed = list(engine.stream(memory, QUESTION, decode=decode, generation=SHORT))[-1].answer
    assert streamed.evidence == answer.evidence
    chat = engine.chat_session(memory, decode=decode)
    assert chat.ask(QUESTION, generation=SHORT).evidence == answer.evidence
    second = chat.ask("And then?", generation=SHORT)
    assert second.evidence not in ((), answer.evidence)
    longer = replace(SHORT, max_new_tokens=9)
    several = engine.ask(memory, [QUESTION, "Why?", "What follows it?"], decode=decode, generation=longer)
    alone = engine.ask(memory, [QUESTION, "Why?", "What follows it?"], decode=decode, generation=longer, together=False)
    for one, other in zip(several, alone):
        if one.token_ids == other.token_ids:
            assert [s[:2] for s in one.evidence] == [s[:2] for s in other.evidence]
            assert [s.share for s in one.evidence] == pytest.approx([s.share for s in other.evidence], abs=1e-3)
    assert any(one.token_ids == other.token_ids for one, other in zip(several, alone))


@pytest.mark.parametrize("together", [False, True])
def test_the_row_that_ends_an_answer_does_not_count(asked, monkeypatch, together):
    engine, memory, answer = asked[WAYS[0]]
    monkeypatch.setattr(type(engine._asking), "end_ids", [answer.token_ids[3]])
    end = answer.token_ids.index(answer.token_ids[3])
    ended = engine.ask(memory, [QUESTION] * 2, generation=SHORT, together=together)[1]
    assert ended.token_ids == answer.token_ids[: end + 1]
    before = engine.ask(memory, QUESTION, max_new_tokens=max(end, 1))
    assert [s[:2] for s in ended.evidence] == [s[:2] for s in before.evidence]
    assert [s.share for s in ended.evidence] == pytest.approx([s.share for s in before.evidence], abs=2e-4)


def test_beams_have_the_evidence_of_the_answer_they_chose(asked):
    engine, memory, answer = asked[WAYS[0]]
    beams = engine.ask(memory, QUESTION, num_beams=2, generation=SHORT)
    assert beams.evidence
    if beams.token_ids == answer.token_ids:
        assert beams.evidence == answer.evidence


def test_the_option_chosen_has_it_and_so_has_an_answer_with_a_prefix(asked):
    engine, memory, _ = asked[WAYS[0]]
    for settings in ({"choices": ("yes", "no, never")}, {"prefix": "The", "max_new_tokens": 5}):
        answer = engine.ask(memory, QUESTION, **settings)
        written = answer.token_ids if "choices" in settings else answer.token_ids[-5:]
        tail, start = start_of(engine, memory, "dense")
        before = [*tail, *answer.token_ids[: len(answer.token_ids) - len(written)]]
        mass = plain_masses(engine, start, before, telling(engine, written), watched_layers(engine.config))
        expected = spans_of(GroupTokens.of(memory, start.ids, engine.config).sum(mass), memory.groups)
        assert [span[:2] for span in answer.evidence] == [span[:2] for span in expected]
        assert [span.share for span in answer.evidence] == pytest.approx([span.share for span in expected], abs=2e-4)


def test_it_is_named_as_such_and_can_be_left_out(asked):
    engine, memory, answer = asked[WAYS[3]]
    without = engine.ask(memory, QUESTION, decode=WAYS[3][2], generation=SHORT, evidence=False)
    assert (without.evidence, without.text, without.read) == ((), answer.text, answer.read)
    assert "evidence" not in without.usage.seconds
    assert answer.usage.seconds["evidence"] > 0
    assert answer.to_dict()["evidence"] == [span._asdict() for span in answer.evidence]
    assert answer.to_dict()["read"] == [span._asdict() for span in answer.read]
    with pytest.warns(DeprecationWarning, match="Answer.read"):
        assert answer.spans == answer.read


def test_a_memory_that_does_not_say_what_its_tokens_stand_for(asked):
    engine, memory, answer = asked[WAYS[4]]
    old = VideoMemory(replace(memory.state, usage=replace(memory.usage, window_ratios=())), engine)
    told = engine.ask(old, QUESTION, generation=SHORT)
    assert (told.text, told.evidence) == (answer.text, ())
    assert any(w.startswith("no evidence for this answer") for w in told.warnings)
    with pytest.raises(UnknownTokensError, match="beacons"):
        GroupTokens.of(memory, memory.token_ids[:-1], engine.config)


def test_a_full_gpu_costs_the_evidence_and_not_the_answer(asked, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    engine, memory, answer = asked[WAYS[0]]
    monkeypatch.setattr(evidence, "token_masses", full)
    told = engine.ask(memory, QUESTION, generation=SHORT)
    assert (told.text, told.evidence) == (answer.text, ())
    assert any("ran out of memory" in w for w in told.warnings)


def test_a_single_picture(asked):
    for way in (WAYS[0], WAYS[4]):
        engine, _, _ = asked[way]
        answer = engine.ask(engine.encode(pictures(1)), QUESTION, generation=SHORT)
        assert [span.share for span in answer.evidence] == [1.0]


def groups_of(count: int) -> list[Group]:
    return [Group(4.0 * n, 4.0 * n + 4, 0, 0, 0) for n in range(count)]


def test_spans_are_what_stands_out():
    mass = np.array([0.01, 0.2, 0.1, 0.0, 0.0, 0.16, 0.02, 0.01])
    assert spans_of(mass, groups_of(8)) == (EvidenceSpan(4, 12, 0.6), EvidenceSpan(20, 24, 0.32))
    assert spans_of(np.zeros(3), groups_of(3)) == ()
    many = np.tile([1.0, 0.0], 9)
    assert [span.start for span in spans_of(many, groups_of(18))] == [0, 8, 16, 24, 32]


def test_watched_layers_lie_in_the_family_s_part_of_the_depth(tiny):
    config = tiny.config
    assert watched_layers(config)
    for layers in (1, 2, 5, 28, 36):
        text = config.text_config.to_dict() | {"num_hidden_layers": layers}
        text.pop("layer_types", None)
        chosen = watched_layers(type(config)(**{**config.to_dict(), "text_config": text}))
        assert 0 <= min(chosen) <= max(chosen) < layers


def test_a_watch_keeps_no_more_than_a_row():
    watch = QueryWatch(frozenset({1}))
    whole = torch.zeros(1, 2, 300, 4)
    for layer in (0, 1, 2):
        watch.see(layer, whole)
        watch.see(layer, whole[:, :, :1])
    assert list(watch.seen) == [1]
    assert watch.rows(2, 7)[1].queries_NLE.shape == (2, 2, 4)
    assert (watch.rows(2, 7)[1].sees, watch.rows(1, 7)[1].sees, watch.forwards) == (8, 7, 2)
    assert watch.seen[1][0].untyped_storage().nbytes() == 2 * 4 * 4


def test_notebooks_show_answers_and_memories(asked):
    _, memory, answer = asked[WAYS[0]]
    shown = replace(answer, text="<b>bold</b>", warnings=("half of it",))._repr_html_()
    assert "&lt;b&gt;bold" in shown
    assert "half of it" in shown
    assert shown.count("<span") == len(answer.evidence)
    assert "39, " in memory._repr_html_()
