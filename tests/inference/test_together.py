"""Several answers written at once, against one question at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from videoxl.config import Generation
from videoxl.inference.decode.bilevel import Question, choose_decode, start_from
from videoxl.inference.decode.loop import decode_tokens
from videoxl.inference.decode.together import Prompt, decode_together
from videoxl.inference.engine import VideoXL
from videoxl.memory.video_memory import VideoMemory

QUESTIONS = ("What is shown?", "Why?", "When does a card with a red star appear, and what follows it then?")


def film(frames: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8))


def prompt(engine: VideoXL, memory: VideoMemory, question: str, settings: Generation, decode: str) -> Prompt:
    tail = engine.chat_format.suffix(question)
    asked = Question(question, tail, len(tail))
    start = start_from(engine.model, memory, choose_decode(decode, engine.config), asked, reserve=64)
    return Prompt([*start.ids, *tail], start.cache, settings)


def one_by_one(engine: VideoXL, prompts: Sequence[Prompt]) -> list[list[int]]:
    return [
        [
            token.id
            for token in decode_tokens(
                engine.model, p.ids, p.cache.fork(), p.settings, end_ids=engine.end_ids, stop=p.stop
            )
        ]
        for p in prompts
    ]


def together(engine: VideoXL, prompts: Sequence[Prompt]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    for number, token in decode_together(engine.model, prompts, end_ids=engine.end_ids):
        found[number].append(token)
    return found


@pytest.mark.parametrize(
    ("which", "prefill", "decode"),
    [
        ("tiny", "full", "dense"),
        ("tiny", "chunked", "dense"),
        ("tiny", "chunked:offload=true", "dense"),
        ("tiny", "chunked", "bilevel:top_k=1"),
        ("tiny_v1", "beacon", "dense"),
    ],
)
def test_the_same_tokens(which: str, prefill: str, decode: str, request: pytest.FixtureRequest) -> None:
    engine: VideoXL = request.getfixturevalue(which)
    memories = [engine.encode(frames=film(frames, frames), fps=1, prefill=prefill) for frames in (72, 31)]
    settings = [
        Generation(max_new_tokens=9),
        Generation(max_new_tokens=14, do_sample=True, seed=3, top_p=0.9),
        Generation(max_new_tokens=5, repetition_penalty=1.3),
    ]
    prompts = [
        prompt(engine, memories[number % 2], QUESTIONS[number % 3], settings[(number + number // 3) % 3], decode)
        for number in range(7)
    ]
    lengths = [len(p.cache) for p in prompts]
    assert together(engine, prompts) == one_by_one(engine, prompts)
    assert [len(p.cache) for p in prompts] == lengths  # what they start from stays as it was


def test_a_stop_ends_one_answer_and_not_the_others(tiny: VideoXL) -> None:
    memory = tiny.encode(frames=film(20, 0), fps=1)
    plain = [prompt(tiny, memory, question, Generation(max_new_tokens=8), "dense") for question in QUESTIONS]
    whole = one_by_one(tiny, plain)
    stopped = Prompt(plain[1].ids, plain[1].cache, plain[1].settings, lambda ids: len(ids) == 2)
    assert together(tiny, [plain[0], stopped, plain[2]]) == [whole[0], whole[1][:2], whole[2]]


def test_what_cannot_be_answered_so_is_said(tiny: VideoXL) -> None:
    memory = tiny.encode(frames=film(8, 0), fps=1)
    asked = prompt(tiny, memory, "Why?", Generation(num_beams=2), "dense")
    with pytest.raises(ValueError, match="num_beams=2"):
        list(decode_together(tiny.model, [asked]))
    with pytest.raises(ValueError, match="nothing is left to read"):
        list(decode_together(tiny.model, [Prompt(memory.token_ids, memory.cache, Generation())]))


def test_ask_takes_several_questions(tiny: VideoXL) -> None:
    memory = tiny.encode(frames=film(40, 0), fps=1)
    settings = {"max_new_tokens": 6, "stop": ("zz",)}
    alone = [tiny.ask(memory, question, **settings) for question in QUESTIONS]
    answers = tiny.ask(memory, QUESTIONS, **settings)
    assert [a.token_ids for a in answers] == [a.token_ids for a in alone]
    assert [a.text for a in answers] == [a.text for a in alone]
    assert [a.usage.prompt_tokens for a in answers] == [a.usage.prompt_tokens for a in alone]
    one_after_the_other = tiny.ask(memory, list(QUESTIONS), together=False, **settings)
    assert [a.token_ids for a in one_after_the_other] == [a.token_ids for a in alone]
    beams = tiny.ask(memory, QUESTIONS[:2], max_new_tokens=3, num_beams=2)
    assert [a.text for a in beams] == [tiny.ask(memory, q, max_new_tokens=3, num_beams=2).text for q in QUESTIONS[:2]]


@pytest.mark.parametrize("questions", [[], ["Why?", ""], [3], 7])
def test_no_questions_are_refused(tiny: VideoXL, questions: object) -> None:
    memory = tiny.encode(frames=film(8, 0), fps=1)
    with pytest.raises(ValueError, match="question must be text"):
        tiny.ask(memory, questions)  # type: ignore[call-overload]
