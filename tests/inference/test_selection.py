"""Several judges at once, words that were read, and a second look at the best blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.inference.test_bilevel import GROUPS, QUESTION, SHORT, question_of, weights_of
from tests.inference.test_siglip import siglip  # noqa: F401
from videoxl import BiLevelDecode, VideoMemory
from videoxl.cues import Cue, Track
from videoxl.inference.decode.bilevel import best_blocks, block_scores, coarse_kv_for, second_look, start_from
from videoxl.inference.decode.fusion import Fused, fused, word_scores
from videoxl.inference.decode.relevance import attention_scores, group_masses
from videoxl.memory.kv_cache import KVCache, PreallocatedLayer
from videoxl.memory.pooling import blocks_of, closer, interleave, plan_interleave

CUES = [Cue(1, 3, "Welcome to the circus"), Cue(9, 14.5, "The ELEPHANT dances"), Cue(17, 18, "the end")]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (4 * GROUPS, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def memory(tiny, pictures) -> VideoMemory:
    """Groups of 2 s, with subtitles."""
    return tiny.encode(pictures, fps=2, tracks=[Track("subtitles", tuple(CUES))])


@pytest.mark.parametrize("name", ["siglip+words", "attention+siglip", "words+attention+siglip"])
def test_a_name_of_several_judges_is_a_setting_like_any_other(name):
    assert BiLevelDecode(relevance=name).judges == tuple(name.split("+"))
    assert str(BiLevelDecode(relevance=name, looks=2)) == f"bilevel:relevance={name},looks=2"


@pytest.mark.parametrize("name", ["attention+eyes", "siglip+siglip", "attention+3", "+", "attention+"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match=r"relevance must be one of attention, siglip, words, several of them"):
        BiLevelDecode(relevance=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"looks": 3}, "looks must be 1 or 2, got 3"),
        ({"looks": True}, "looks must be 1 or 2, got True"),
        ({"looks": 2, "relevance": [3]}, "looks=2 chooses among blocks, and relevance names them"),
    ],
)
def test_looks_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        BiLevelDecode(**settings)


def test_judges_count_alike_whatever_their_scale():
    first, second = np.array([0.0, 1, 2, 9]), np.array([5000.0, 4000, 9000, 4500])
    both = fused([first, second])
    assert both == pytest.approx(sum((x - x.mean()) / x.std() for x in (first, second)))
    assert fused([first * 1e-6, second]) == pytest.approx(both)
    assert fused([first, np.ones(4)]).argsort().tolist() == first.argsort().tolist()  # one that tells nothing apart
    assert fused([first]) is first


def test_words_find_the_groups_in_which_they_are_said(tiny, memory):
    scores = word_scores(memory, "When does the elephant dance?")
    assert scores.argmax() in (4, 5, 6, 7)
    assert np.flatnonzero(scores > scores.max() / 2).tolist() == [4, 5, 6, 7]  # from 9 s to 14.5 s
    assert scores[0] == pytest.approx(np.log(1 + GROUPS / 7))  # "the" is said in seven groups
    assert scores[10] == 0
    assert not word_scores(memory, "Qui est là ?").any()


def test_words_need_words(tiny, pictures):
    silent = tiny.encode(pictures, fps=2)
    with pytest.raises(ValueError, match=r"relevance='words' compares .* this memory has none: encode\(..., subtitles"):
        tiny.ask(silent, QUESTION, decode="bilevel:block_size=2,top_k=1,relevance=attention+words", generation=SHORT)


def test_several_judges_are_the_sum_of_each(tiny, siglip, pictures):  # noqa: F811
    seen = tiny.encode(pictures, fps=2, siglip=siglip, tracks=[Track("subtitles", tuple(CUES))])
    blocks, asked = blocks_of(GROUPS, 2), question_of(tiny)
    level, watched = coarse_kv_for(tiny.model, seen, 4), siglip.watch(seen, pictures, fps=2)

    def scores_of(relevance) -> np.ndarray:
        return block_scores(tiny.model, seen, level, blocks, BiLevelDecode(block_size=2, relevance=relevance), asked)

    want = fused([scores_of(one) for one in ("attention", watched, "words")])
    assert scores_of(Fused(("attention", watched, "words"))) == pytest.approx(want)
    named = BiLevelDecode(block_size=2, top_k=1, relevance="attention+siglip+words")
    answer = tiny.ask(seen, QUESTION, decode=named, generation=SHORT)
    assert seen.groups[2 * best_blocks(want, 1)[0]].start_s in [span.start for span in answer.read]
    assert answer.usage.decode == str(named)
    tiny.siglip = None


def test_a_second_look_is_plain_attention_over_dense_and_averaged_tokens(tiny, memory):
    """Written out: dense tokens stand there once, averages as often as they have tokens."""
    level, asked = coarse_kv_for(tiny.model, memory, 4), question_of(tiny)
    dense_G = np.isin(np.arange(GROUPS), [0, 3, 4, 8])
    model = tiny.model.model.language_model
    got = group_masses(tiny.model, memory.cache, closer(memory.cache, level, dense_G, model), asked.ids, rows=5)
    plan = plan_interleave(level, dense_G)
    cache = interleave(memory.cache, level, plan, model)
    per_token = np.ones(len(plan), dtype=int)
    per_token[plan.coarse_to] = np.where(np.array(level.ids) == tiny.config.video_token_id, 4, 1)[plan.coarse_from]
    source = np.repeat(np.arange(len(plan)), per_token)
    repeated = KVCache([PreallocatedLayer.holding(h.keys[:, :, source], h.values[:, :, source]) for h in cache.layers])
    attentions = weights_of(model, asked.ids, len(plan), repeated)
    visual, begins = (
        np.array(plan.ids) == tiny.config.video_token_id,
        np.flatnonzero(np.diff(np.array(plan.ids) == tiny.config.video_token_id)),
    )
    group = np.full(len(plan), -1)
    for number, (first, end) in enumerate(zip(begins[::2] + 1, [*(begins[1::2] + 1), len(plan)])):
        group[first:end] = number
    seen = [np.flatnonzero((visual & (group == g))[source]) for g in range(GROUPS)]
    want = torch.cat([torch.stack([layer[0, :, -5:, s].sum(-1).mean(-1) for s in seen], dim=1) for layer in attentions])
    assert np.abs(got - want.double().numpy()).max() < 1e-6


def test_the_second_look_chooses_among_the_best_of_the_first(tiny, memory):
    level, asked, blocks = coarse_kv_for(tiny.model, memory, 4), question_of(tiny), blocks_of(GROUPS, 1)
    first = attention_scores(tiny.model, memory.cache, level, blocks, asked.ids, rows=asked.own)
    candidates = best_blocks(first, 4)
    again = second_look(tiny.model, memory, level, blocks, candidates, asked)
    assert set(best_blocks(again, 4)) == set(candidates)
    once, twice = (BiLevelDecode(block_size=1, top_k=1, looks=looks) for looks in (1, 2))
    start = start_from(tiny.model, memory, twice, asked)
    read = {span.start for span in start.read}
    assert read == {memory.groups[n].start_s for n in (0, best_blocks(again, 1)[0], GROUPS - 1)}
    assert start_from(tiny.model, memory, once, asked).cache.get_seq_length() == start.cache.get_seq_length()
    assert all(0 <= span.relevance <= 1 for span in start.read)
