"""Log-probabilities of tokens, against a plain forward over prompt and answer."""

from __future__ import annotations

import math

import pytest
import torch

from tests.inference.test_together import film
from videoxl.config import Generation
from videoxl.inference.answers import Answer
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.engine import VideoXL
from videoxl.memory.video_memory import VideoMemory

WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 2.0, "top_k": 40, "seed": 5},
    "penalised": {"repetition_penalty": 1.4},
    "begun": {"prefix": "It is", "min_new_tokens": 6},
}


@pytest.fixture(scope="module")
def memory(tiny: VideoXL) -> VideoMemory:
    return tiny.encode(frames=film(60, 1), fps=1)


@torch.inference_mode()
def plain(engine: VideoXL, memory: VideoMemory, answer: Answer, how: Generation, decode: str) -> torch.Tensor:
    """Log-probabilities ``[new, V]`` at the places of an answer's tokens, by one forward without a loop."""
    asked = engine._asked(memory, "What?", how, choose_decode(decode, engine.config))
    start = engine._asking.start(asked)
    fed = torch.tensor([[*asked.tail, *answer.token_ids]])
    cache = start.cache.fork(reserve=fed.shape[1])
    embeds = engine.model.get_input_embeddings()(fed)
    hidden = engine.model.model.language_model(inputs_embeds=embeds, past_key_values=cache).last_hidden_state[0]
    return engine.model.lm_head(hidden).float().log_softmax(-1)[len(asked.prompt) - 1 : -1]


@pytest.mark.parametrize("decode", ["dense", "bilevel:top_k=1"])
@pytest.mark.parametrize("way", WAYS)
def test_logprobs_are_those_of_a_plain_forward(tiny: VideoXL, memory: VideoMemory, way: str, decode: str) -> None:
    how = Generation(max_new_tokens=8, logprobs=4, **WAYS[way])
    asked = tiny.ask(memory, "What?", generation=how, decode=decode)
    *_, last = tiny.stream(memory, "What?", generation=how, decode=decode)
    several = tiny.ask(memory, ["What?", "Why?"], generation=how, decode=decode)
    chat = tiny.chat_session(memory, decode=decode).ask("What?", generation=how)
    for answer in (asked, last.answer, several[0], chat):
        assert answer.token_ids == asked.token_ids
        scores = plain(tiny, memory, answer, how, decode)
        assert len(answer.logprobs) == answer.usage.new_tokens == len(scores)
        for token, row in zip(answer.logprobs, scores):
            best = row.topk(4)
            assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)  # measured: 4e-6
            assert [one.id for one in token.top] == best.indices.tolist()
            assert [one.logprob for one in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
            assert token.text == tiny.tokenizer.decode([token.id])
        assert answer.confidence == pytest.approx(math.fsum(one.logprob for one in answer.logprobs) / len(scores))
        assert [one.id for one in answer.logprobs] == list(answer.token_ids[-len(scores) :])


def test_every_answer_has_a_confidence_and_only_some_have_logprobs(tiny: VideoXL, memory: VideoMemory) -> None:
    asked = tiny.ask(memory, "What?", max_new_tokens=5)
    beams = tiny.ask(memory, "What?", max_new_tokens=5, num_beams=1, logprobs=0)
    assert asked.logprobs is None
    assert asked.confidence == beams.confidence < 0
    assert [one.top for one in beams.logprobs] == [()] * 5
    found = tiny.ask(memory, "What?", max_new_tokens=5, num_beams=3)
    rows = plain(tiny, memory, found, Generation(), "dense")
    wanted = [float(row[token]) for row, token in zip(rows, found.token_ids)]
    assert found.confidence == pytest.approx(sum(wanted) / len(wanted), abs=1e-4)


def test_several_draws_are_those_of_their_seeds(tiny: VideoXL, memory: VideoMemory) -> None:
    how = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 8}
    for decode in ("dense", "bilevel:top_k=1"):
        drawn = tiny.ask(memory, "What?", n=4, seed=3, decode=decode, **how)
        alone = [tiny.ask(memory, "What?", seed=3 + number, decode=decode, **how) for number in range(4)]
        found = [drawn, *drawn.alternatives]
        assert [one.token_ids for one in found] == [one.token_ids for one in alone]
        assert [one.confidence for one in found] == pytest.approx([one.confidence for one in alone], abs=1e-4)
        assert drawn.usage.together == 4
    several = tiny.ask(memory, ["What?", "Why?"], n=2, seed=3, **how)
    assert [len(one.alternatives) for one in several] == [1, 1]
    assert several[0].alternatives[0].token_ids == alone[1].token_ids or decode != "dense"
    record = drawn.to_dict()["alternatives"]
    assert [one["text"] for one in record] == [one.text for one in drawn.alternatives]
    apart = tiny.ask(memory, ["What?", "Why?"], n=2, seed=3, together=False, **how)
    assert [one.alternatives[0].token_ids for one in apart] == [one.alternatives[0].token_ids for one in several]


def test_an_answer_does_not_end_before_its_least_length(tiny: VideoXL, memory: VideoMemory) -> None:
    plain_ids = tiny.ask(memory, "What?", max_new_tokens=6).token_ids
    held = tiny.model.generation_config.eos_token_id
    for end in (0, 2):
        tiny.model.generation_config.eos_token_id = plain_ids[end]
        try:
            assert len(tiny.ask(memory, "What?", max_new_tokens=6).token_ids) == plain_ids.index(plain_ids[end]) + 1
            for how in ({"min_new_tokens": 5}, {"min_new_tokens": 5, "num_beams": 2}):
                least = tiny.ask(memory, "What?", max_new_tokens=6, **how)
                assert plain_ids[end] not in least.token_ids[:4]
                assert len(least.token_ids) >= 5
            several = tiny.ask(memory, ["What?", "Why?"], max_new_tokens=6, min_new_tokens=5)
            assert several[0].token_ids == tiny.ask(memory, "What?", max_new_tokens=6, min_new_tokens=5).token_ids
        finally:
            tiny.model.generation_config.eos_token_id = held


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 2}, "n=2 only has a meaning when sampling: add do_sample=True"),
        ({"n": 2, "num_beams": 2}, "n=2 only has a meaning when sampling"),
        ({"n": 0, "do_sample": True}, "n must be a whole number of at least 1, got 0"),
        ({"logprobs": -1}, "logprobs must be"),
        ({"logprobs": 10**6}, "logprobs=1000000 asks for more tokens than there are: "),
        ({"logprobs": 2, "num_beams": 2}, "logprobs=2 and num_beams=2 exclude each other"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens=9 is above max_new_tokens=8"),
    ],
)
def test_settings_that_cannot_be_met_are_one_line(tiny: VideoXL, memory: VideoMemory, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        tiny.ask(memory, "Which?", **settings)
    assert "\n" not in str(error.value)


def test_where_several_answers_have_no_meaning(tiny: VideoXL, memory: VideoMemory) -> None:
    drawn = Generation(n=2, do_sample=True, max_new_tokens=2)
    with pytest.raises(ValueError, match="n=2 cannot be streamed"):
        tiny.stream(memory, "What?", generation=drawn)
    with pytest.raises(ValueError, match="n=2 has no meaning in a conversation"):
        tiny.chat_session(memory).ask("What?", generation=drawn)
    assert len(tiny.continue_conversation(memory, [("A?", "b")], "What?", drawn).alternatives) == 1
