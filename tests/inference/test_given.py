"""Options scored by likelihood, against full answers read one by one; answers with a prefix or a system turn."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch

from tests.inference.test_together import film
from videoxl.config import Generation
from videoxl.inference.engine import VideoXL
from videoxl.memory.video_memory import VideoMemory

WORDS = ("red", "blue card", "a", "the star moves left", "12.5 s", "nothing", "no", "non", "ein Bär", "x" * 40)
DECODES = {"tiny": ("dense", "bilevel:top_k=1"), "tiny_v1": ("dense",)}


@pytest.fixture(scope="module")
def memories(tiny: VideoXL, tiny_v1: VideoXL) -> dict[str, VideoMemory]:
    return {
        "tiny": tiny.encode(frames=film(60, 1), fps=1),
        "tiny_v1": tiny_v1.encode(frames=film(20, 2), fps=1),
    }


@torch.inference_mode()
def brute_force(engine: VideoXL, memory: VideoMemory, question: str, text: str, decode: str, before: str = "") -> float:
    """Log-probability of a full answer and its end: one plain forward over prompt and answer."""
    asked = engine._asked(memory, question, Generation(prefix=before), engine_decode(engine, decode))
    start = engine._asking.start(asked)
    answer = [*engine.chat_format.tokenize_user(text), *engine.chat_format.tokenize("<|im_end|>")]
    fed = torch.tensor([[*asked.prompt, *answer]])
    language_model, cache = engine.model.model.language_model, start.cache.fork(reserve=fed.shape[1] + 1)
    hidden = language_model(inputs_embeds=engine.model.get_input_embeddings()(fed), past_key_values=cache)
    logprobs = engine.model.lm_head(hidden.last_hidden_state[0]).float().log_softmax(-1)
    first = len(asked.prompt) - 1
    return sum(float(logprobs[first + place, token]) for place, token in enumerate(answer))


def engine_decode(engine: VideoXL, decode: str):
    from videoxl.inference.decode.bilevel import choose_decode

    return choose_decode(decode, engine.config)


@pytest.mark.parametrize("seed", range(12))
def test_options_are_as_likely_as_full_answers_read_one_by_one(seed: int, memories, request) -> None:
    compare(seed, memories, request)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 50))
def test_more_options_are_as_likely_as_full_answers(seed: int, memories, request) -> None:
    compare(seed, memories, request)


def compare(seed: int, memories, request) -> None:
    draw = random.Random(seed)
    which = draw.choice(("tiny", "tiny_v1"))
    engine, memory, decode = request.getfixturevalue(which), memories[which], draw.choice(DECODES[which])
    choices, before = draw.sample(WORDS, draw.randint(2, len(WORDS))), draw.choice(("", "It is", "Antwort: "))
    answer = engine.ask(memory, f"What is {seed}?", choices=choices, decode=decode, prefix=before)
    wanted = [brute_force(engine, memory, f"What is {seed}?", text, decode, before) for text in choices]
    assert [one.logprob for one in answer.choices] == pytest.approx(wanted, abs=5e-5)  # measured: 6e-6
    probabilities = torch.tensor(wanted, dtype=torch.float64).softmax(0).tolist()
    assert [one.probability for one in answer.choices] == pytest.approx(probabilities, abs=5e-5)
    assert answer.text == choices[max(range(len(choices)), key=wanted.__getitem__)]
    best = next(one for one in answer.choices if one.text == answer.text)
    assert answer.confidence == pytest.approx(best.logprob / best.tokens)


def test_every_way_to_ask_chooses_alike(tiny: VideoXL, memories) -> None:
    memory, options = memories["tiny"], ["red", "a blue card", "nothing"]
    length = len(memory.cache)
    asked = tiny.ask(memory, "Which?", choices=options)
    assert sum(one.probability for one in asked.choices) == pytest.approx(1)
    *told, last = tiny.stream(memory, "Which?", choices=options)
    assert "".join(piece.text for piece in told) == asked.text
    several = tiny.ask(memory, ["Which?", "Why?"], choices=options)
    chat = tiny.chat_session(memory)
    for other in (last.answer, several[0], chat.ask("Which?", choices=options)):
        assert (other.text, other.token_ids) == (asked.text, asked.token_ids)
        assert [one.logprob for one in other.choices] == pytest.approx([one.logprob for one in asked.choices], abs=1e-4)
    follows = chat.ask("And then?", max_new_tokens=5)
    written = tiny.continue_conversation(memory, [("Which?", asked.text)], "And then?", Generation(max_new_tokens=5))
    assert follows.token_ids == written.token_ids  # the next turn sees what was chosen
    assert len(memory.cache) == length


def test_every_question_has_options_of_its_own(tiny: VideoXL, memories) -> None:
    memory, each = memories["tiny"], [Generation(choices=("a", "b")), Generation(max_new_tokens=2)]
    answers = tiny.ask(memory, ["Which?", "What?"], generation=each)
    assert [len(one.choices) for one in answers] == [2, 0]
    assert answers[0].choices == tiny.ask(memory, "Which?", choices=("a", "b")).choices
    assert answers[1].token_ids == tiny.ask(memory, "What?", max_new_tokens=2).token_ids
    with pytest.raises(ValueError, match="generation holds settings of 2 questions, and 1 are asked"):
        tiny.ask(memory, ["Which?"], generation=each)


def test_an_option_that_begins_another_is_weighed_with_its_end(tiny: VideoXL, memories) -> None:
    answer = tiny.ask(memories["tiny"], "Which?", choices=("no", "nothing"))
    whole = tiny.ask(memories["tiny"], "Which?", choices=("nothing", "no"))
    assert {one.text: one.logprob for one in answer.choices} == pytest.approx(
        {one.text: one.logprob for one in whole.choices}, abs=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"choices": ("a", "b", "a")}, "choices holds 'a' twice: options must differ"),
        ({"choices": ("a", " a")}, "choices holds ' a' twice"),
        ({"choices": ("a", " ")}, "choices holds an empty option, ' '"),
        ({"choices": "yes"}, "choices holds one option, 'yes': give at least two"),
        ({"choices": (1, 2)}, "choices must be texts"),
        ({"choices": ("a", "\ud800")}, "choices holds half a character"),
        ({"choices": ("a", "b"), "stop": "c"}, "stop and choices exclude each other"),
        ({"choices": ("a", "b"), "num_beams": 3}, "choices and num_beams=3 exclude each other"),
        ({"choices": ("a", "b"), "do_sample": True}, "do_sample=True and choices exclude each other"),
        ({"choices": ("a", "b"), "repetition_penalty": 1.1}, "repetition_penalty=1.1 and choices exclude each other"),
        ({"prefix": None}, "prefix must be text, got None"),
        ({"prefix": "\udc80"}, "prefix holds half a character"),
    ],
)
def test_settings_that_cannot_be_met_are_one_line(tiny: VideoXL, memories, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        tiny.ask(memories["tiny"], "Which?", **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("decode", ["dense", "bilevel:top_k=1"])
def test_an_answer_begins_with_its_prefix_in_every_way_to_ask(tiny: VideoXL, memories, decode: str) -> None:
    memory, how = memories["tiny"], Generation(prefix="Das Bär-Tier", max_new_tokens=6)
    asked = tiny.ask(memory, "What?", generation=how, decode=decode)
    ids = tiny.chat_format.tokenize_user(how.prefix)
    assert asked.text.startswith(how.prefix)
    assert asked.token_ids[: len(ids)] == tuple(ids)
    assert asked.usage.new_tokens == len(asked.token_ids) - len(ids) == 6
    *told, last = tiny.stream(memory, "What?", generation=how, decode=decode)
    together = tiny.ask(memory, ["What?", "Why?"], generation=how, decode=decode)[0]
    chat = tiny.chat_session(memory, decode=decode)
    for other in (last.answer, together, chat.ask("What?", generation=how)):
        assert (other.text, other.token_ids) == (asked.text, asked.token_ids)
    assert "".join(piece.text for piece in told).strip() == asked.text
    beams = tiny.ask(memory, "What?", generation=Generation(prefix=how.prefix, num_beams=2, max_new_tokens=4))
    assert beams.text.startswith(how.prefix)
    plain = tiny.ask(memory, "What?", max_new_tokens=4)
    begun = tiny.ask(memory, "What?", prefix=tiny.tokenizer.decode(plain.token_ids[:2]), max_new_tokens=2)
    if begun.token_ids[:2] == plain.token_ids[:2]:
        assert begun.token_ids == plain.token_ids  # what the model would have written anyway


def test_a_system_turn_is_read_between_video_and_question(tiny: VideoXL, memories) -> None:
    memory = memories["tiny"]
    plain, told = tiny.ask(memory, "What?", max_new_tokens=6), tiny.ask(memory, "What?", system="Be brief.")
    assert told.usage.prompt_tokens > plain.usage.prompt_tokens
    asked = tiny._asked(memory, "What?", Generation(system="Be brief."), engine_decode(tiny, "dense"))
    assert tiny.tokenizer.decode(asked.tail) == (
        "<|im_end|>\n<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
        "What?<|im_end|>\n<|im_start|>assistant\n"
    )
    chat = tiny.chat_session(memory)
    chat.ask("One?", max_new_tokens=2)
    chat.ask("Two?", max_new_tokens=2, system="Be <|im_end|> brief.")
    text = tiny.tokenizer.decode(chat._tail)
    assert "<|im_end|>\n<|im_start|>system\nBe <|im_end|> brief.<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>" in text
    end = tiny.chat_format.tokenize("<|im_end|>")[0]
    assert chat._tail.count(end) == 4 + (chat._tail[-1] == end)  # what was typed is no control token


def test_an_answer_as_json_has_the_same_names_always(tiny: VideoXL, memories) -> None:
    answers = [
        tiny.ask(memories["tiny"], "Which?", max_new_tokens=3),
        tiny.ask(memories["tiny"], "Which?", choices=("a", "b")),
    ]
    records = [json.loads(answer.to_json()) for answer in answers]
    for one, other in itertools.pairwise(records):
        assert one.keys() == other.keys()
    assert records[0]["choices"] == []
    assert records[1]["choices"][1] == answers[1].choices[1]._asdict()
    assert "\n" not in answers[1].to_json()
    assert json.loads(answers[1].to_json(indent=2)) == records[1]
