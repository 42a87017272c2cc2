"""What a memory gives away, and memories that several conversations share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference.memories import CASES, TOLERANCE, pictures, seconds


@pytest.fixture(scope="module")
def engines(tiny, tiny_v1):
    return {"tiny": tiny, "tiny-v1": tiny_v1}


def test_features_are_what_was_kept_before_rotation(engines):
    engine = engines["tiny-v1"]
    memory = engine.encode(frames=pictures(23), prefill="beacon:ratio=4")
    features = memory.features(layer=-1)
    assert features.keys_KSE.shape == features.values_KSE.shape == (2, 23 * 4, 16)
    layer, at = memory.cache.layers[-1], memory.prefix_length
    places = torch.arange(at, len(memory.token_ids))
    again = engine.model.model.language_model.apply_rope(features.keys_KSE[None], places)
    torch.testing.assert_close(again[0], layer.keys[0, :, at:], rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="between 0 and 1"):
        memory.features(2)


# ---------------------------------------------------------------------------------------------------------- sharing

WAYS = {
    "tiny": ("dense", "bilevel:top_k=1,block_size=1", "bilevel:top_k=2,block_size=2,pool=2"),
    "tiny-v1": ("dense",),
}
SAMPLED = {"do_sample": True, "temperature": 1.5, "seed": 3}


@pytest.fixture(scope="module")
def expected(engines):
    """Answers of memories that nobody else asks, by model, prefill and what is asked."""
    known = {}

    def answers(name: str, prefill: str, decode: str, questions: tuple[str, ...], sampled: bool) -> tuple:
        key = (name, prefill, decode, questions, sampled)
        if key not in known:
            memory = engines[name].encode(frames=pictures(29), timestamps=seconds(29), prefill=prefill)
            chat = engines[name].chat_session(memory, decode=decode)
            settings = SAMPLED if sampled else {}
            known[key] = tuple(chat.ask(text, max_new_tokens=3, **settings).token_ids for text in questions)[-1]
        return known[key]

    return answers


@pytest.mark.parametrize(("name", "prefill"), [case for case in CASES if "random" not in case[1]])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_questions_in_any_order_are_those_asked_alone(engines, expected, name, prefill, data):
    """Bit for bit: questions, streams left early, and two conversations, woven into one another on one memory."""
    engine = engines[name]
    memory = engine.encode(frames=pictures(29), timestamps=seconds(29), prefill=prefill)
    chats = [(engine.chat_session(memory, decode=decode), decode) for decode in (WAYS[name][0], WAYS[name][-1])]
    asked: list[tuple[str, ...]] = [(), ()]
    operations = st.sampled_from(["ask", "stream", "leave", "chat 0", "chat 1"])
    for number in range(data.draw(st.integers(2, 6), label="operations")):
        operation, text = data.draw(operations), data.draw(st.sampled_from(["What?", "When, then?"]))
        decode, sampled = data.draw(st.sampled_from(WAYS[name])), data.draw(st.booleans())
        how = SAMPLED if sampled else {}
        if operation.startswith("chat"):
            which = int(operation[-1])
            chat, decode = chats[which]
            asked[which] = (*asked[which], f"{text} {number}")
            got = chat.ask(asked[which][-1], max_new_tokens=3).token_ids
            assert got == expected(name, prefill, decode, asked[which], False)
        elif operation == "ask":
            got = engine.ask(memory, text, decode=decode, max_new_tokens=3, **how).token_ids
            assert got == expected(name, prefill, decode, (text,), sampled)
        else:
            pieces = engine.stream(memory, text, decode=decode, max_new_tokens=3, **how)
            if operation == "leave":
                next(pieces)
                pieces.close()
            else:
                assert list(pieces)[-1].answer.token_ids == expected(name, prefill, decode, (text,), sampled)
