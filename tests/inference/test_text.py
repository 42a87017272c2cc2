"""Stop texts: against plain cutting of the whole text, also across the borders of tokens, and while it is streamed."""

from __future__ import annotations

import random

import pytest

from tests.model.random_tiny import tiny_tokenizer
from videoxl.inference.decode.text import AnswerText, begun

TEXTS = ("one END two 日本 three", "no such thing", "aaaab aaab", "tick tock\n\ntack", "naïve 🙂🙂 smile", "日本日日本")
STOPS = (("END", "日本"), ("aab",), ("\n\n",), ("🙂🙂",), ("never",), ("日日",), ("k\n", "smile"), ())


def cut(text: str, stops: tuple[str, ...]) -> str:
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("stops", STOPS)
def test_an_answer_is_cut_as_its_whole_text_is(text: str, stops: tuple[str, ...]) -> None:
    tokenizer = tiny_tokenizer()
    ids, said, new_ids, told = tokenizer.encode(text), AnswerText(tokenizer, stops), [], ""
    for token in ids:
        new_ids.append(token)
        stopped = said(new_ids)
        assert said.certain.startswith(told)  # nothing that was told is taken back
        told = said.certain
        assert cut(text, stops).startswith(told)
        if stopped:
            break
    assert said.whole() == cut(text, stops)
    whole = tokenizer.decode(new_ids[:-1])
    assert all(stop not in whole for stop in stops)  # it ends with the token that completes a stop text
    assert AnswerText(tokenizer, stops)(new_ids) == stopped == (cut(text, stops) != text)  # all at once


def test_random_texts_and_stops() -> None:
    draw, tokenizer = random.Random(0), tiny_tokenizer()
    for _ in range(300):
        text = "".join(draw.choice("ab日🙂 \n") for _ in range(draw.randint(1, 12)))
        stop = "".join(draw.choice("ab日🙂 \n") for _ in range(draw.randint(1, 3)))
        said, new_ids = AnswerText(tokenizer, (stop,)), []
        for token in tokenizer.encode(text):
            new_ids.append(token)
            if said(new_ids):
                break
            assert begun(said.text, stop) == len(said.text) - len(said.certain)
        assert said.whole() == cut(text, (stop,))


def test_only_what_may_become_a_stop_text_is_held_back() -> None:
    said = AnswerText(tiny_tokenizer(), ("END", "12345678"))
    said(tiny_tokenizer().encode("one EN"))
    assert said.certain == "one "
    said = AnswerText(tiny_tokenizer(), ("END", "12345678"))
    said(tiny_tokenizer().encode("one EX"))
    assert said.certain == "one EX"


def test_special_tokens_between_the_letters_do_not_hide_a_stop_text() -> None:
    tokenizer = tiny_tokenizer()
    first, last = tokenizer.encode("E"), tokenizer.encode("ND")
    assert AnswerText(tokenizer, ("END",))([*first, *[tokenizer.eos_token_id] * 40, *last])


def test_what_stands_in_front_of_an_answer_does_not_stop_it() -> None:
    tokenizer = tiny_tokenizer()
    said = AnswerText(tokenizer, ("ND", "X"), behind=tokenizer.encode("E"))
    assert said(tokenizer.encode("ND"))
    said = AnswerText(tokenizer, ("EN",), behind=tokenizer.encode("E"))
    assert not said(tokenizer.encode("ND"))
    assert said.whole() == "ND"
