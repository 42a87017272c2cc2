"""Ids and labels of conversations, against the prompt code and against a plain restatement of the released template."""

from __future__ import annotations

import pytest
import torch

from tests.model.random_tiny import tiny_tokenizer
from tests.training.records import record, said
from videoxl.errors import TrainingDataError
from videoxl.inference.prompt import IGNORE_INDEX, IMAGE_TOKEN_INDEX, ChatFormat
from videoxl.training.data.conversations import ConversationEncoder, read_conversation

TOKENIZER = tiny_tokenizer()
CHAT = ChatFormat.of(TOKENIZER)
START, END = TOKENIZER.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def encode(*texts: str, turns: str = "multi_turn", **settings):
    return getattr(ConversationEncoder(CHAT, **settings), turns)(read_conversation(record(*texts)))


def learned(encoded) -> str:
    """The text of all live labels, a bar between runs of them."""
    runs, text = [[]], ""
    for label in encoded.labels:
        runs[-1].append(label) if label != IGNORE_INDEX else runs.append([])
    text = "|".join(TOKENIZER.decode(run) for run in runs if run)
    return text


def released_template(*texts: str) -> tuple[list[int], list[int]]:
    """The template of the released training as SPEC 2.7 words it, from text: one part after the other.

    Every turn, the system's included, is ``<|im_start|>role newline text <|im_end|> newline``. Live are the first
    id, the last two, and an assistant's text. Behind a picture comes a line break before the rest of the text.
    """
    found, labels = [], []
    turns = [("system", "You are a helpful assistant."), *zip(("user", "assistant") * len(texts), texts)]
    for role, text in turns:
        body = ids(text)
        if text.startswith("<image>"):
            body = [IMAGE_TOKEN_INDEX, *ids("\n"), *ids(text.removeprefix("<image>"))]
        head, tail = [*ids(role), *ids("\n")], [END, *ids("\n")]
        found += [START, *head, *body, *tail]
        labels += [START, *[IGNORE_INDEX] * len(head)]
        labels += (body if role == "assistant" else [IGNORE_INDEX] * len(body)) + tail
    return found, labels


TURNS = ("<image>\nWhat is shown?", "A red bar.", "And when?", "At 12.5 s, I think.\nYes.")


def test_a_conversation_is_the_prompt_of_inference_and_its_answers():
    found = encode(*TURNS, labels="answers")
    first = [*CHAT.prefix(), IMAGE_TOKEN_INDEX, *CHAT.closed_turn("What is shown?", "A red bar.", first=True)]
    assert found.ids == first + CHAT.closed_turn("And when?", "At 12.5 s, I think.\nYes.", first=False)
    assert learned(found) == "A red bar.<|im_end|>|At 12.5 s, I think.\nYes.<|im_end|>"


def test_released_labels_on_the_prompt_of_inference():
    found = encode(*TURNS)
    plain = encode(*TURNS, labels="answers")
    assert found.ids == [*plain.ids, *ids("\n")]
    bar = "<|im_start|>|<|im_end|>\n<|im_start|>|<|im_end|>\n<|im_start|>|A red bar.<|im_end|>\n<|im_start|>|"
    bar += "<|im_end|>\n<|im_start|>|At 12.5 s, I think.\nYes.<|im_end|>\n"
    assert learned(found) == bar


@pytest.mark.parametrize("texts", [TURNS, TURNS[:2], ("Hello", "Hi\n"), ("<image>", "text"), ("<image>Why?", "So.")])
def test_the_released_template(texts):
    found = encode(*texts, template="released")
    assert (found.ids, found.labels) == released_template(*texts)


def test_the_released_template_has_two_line_breaks_behind_a_picture_and_inference_one():
    places = {}
    for template in ("released", "inference"):
        found = encode(*TURNS, template=template)
        at = found.ids.index(IMAGE_TOKEN_INDEX)
        places[template] = TOKENIZER.decode(found.ids[at + 1 : at + 8])
    assert places["released"].startswith("\n\nWhat")
    assert places["inference"].startswith("\nWhat")


def test_special_tokens_that_are_typed_are_text():
    found = encode("<image>\nSay <|im_end|>", "<|im_start|>assistant", labels="answers")
    assert found.ids.count(END) == 3
    assert found.ids.count(START) == 3
    assert learned(found) == "<|im_start|>assistant<|im_end|>"
    assert encode("<image>\nSay <|im_end|>", "x").labels.count(END) == 3


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("<image>\nWhat?", "<image>\nWhat?"),
        ("<image>What?", "<image>\nWhat?"),
        ("What?\n<image>", "<image>\nWhat?"),
        ("What is <image> here?", "<image>\nWhat is  here?"),
        ("<image>", "<image>\n"),
    ],
)
def test_one_picture_stands_in_front_wherever_it_was_written(written, meant):
    assert encode(written, "x").ids == encode(meant, "x").ids


def test_several_pictures_stay_where_they_are():
    found = encode("First <image> then <image>\nWhich?", "The second.", labels="answers")
    at = [place for place, token in enumerate(found.ids) if token == IMAGE_TOKEN_INDEX]
    assert TOKENIZER.decode(found.ids[at[0] + 1 : at[1]]) == " then "
    assert TOKENIZER.decode(found.ids[at[1] + 1 :]).startswith("\nWhich?<|im_end|>")
    assert found.ids[: at[0]] == CHAT.prefix() + ids("First ")
    released = encode("First <image> then <image>\nWhich?", "x", template="released")
    breaks = [released.ids[at + 1] for at, token in enumerate(released.ids) if token == IMAGE_TOKEN_INDEX]
    assert breaks == ids("\n") * 2


def test_a_picture_in_a_later_turn():
    found = encode("Hello", "Hi", "<image>\nWhat?", "That.", labels="answers")
    asked = [*CHAT.turn_head(), IMAGE_TOKEN_INDEX, *CHAT.suffix("What?"), *CHAT.assistant_turn("That.")]
    assert found.ids[-len(asked) :] == asked


@pytest.mark.parametrize("labels", ["answers", "released"])
@pytest.mark.parametrize("template", ["inference", "released"])
@pytest.mark.parametrize(
    "first", ["<image>\nWhat?", "<image>", "What?\n<image>", "A <image> b <image>\nWhat?", "What?"]
)
def test_questions_apart_read_as_if_each_were_the_only_one(first, template, labels):
    texts = (first, "A bar.", "When?", "Now.", "Where\nexactly?", "Here.")
    encoder = ConversationEncoder(CHAT, labels=labels, template=template)
    conversation = read_conversation(record(*texts))
    packed = encoder.packed(conversation)
    for number in range(3):
        alone = encoder.multi_turn(conversation.only(number))
        kept = [at for at, segment in enumerate(packed.segments) if segment in (0, number + 1)]
        for part in ("ids", "labels", "answers"):
            assert [getattr(packed, part)[at] for at in kept] == getattr(alone, part), part
    assert packed.segments == sorted(packed.segments)


def test_pictures_of_later_questions_cannot_be_packed():
    with pytest.raises(TrainingDataError, match="only the first question"):
        encode("<image>", "a", "<image>", "b", turns="packed")


def test_spans_take_the_places_of_pictures_and_are_not_learned():
    found = encode("A <image> b <image>\nWhat?", "c").place([[7, 7], [8]])
    assert IMAGE_TOKEN_INDEX not in found.ids
    at = found.ids.index(7)
    assert found.labels[at : at + 2] == [IGNORE_INDEX] * 2
    assert found.segments == [0] * len(found.ids)
    assert sum(found.answers) == len(ids("c")) + 1
    with pytest.raises(ValueError, match="2 placeholders for 1"):
        encode("A <image> b <image>", "c").place([[7]])


def test_roles_may_have_either_name_and_a_system_prompt_is_taken():
    conversation = read_conversation(
        {
            "conversations": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi"},
            ]
        }
    )
    assert conversation.system == "Be brief."
    found = ConversationEncoder(CHAT, labels="answers").multi_turn(conversation)
    assert found.ids[: len(CHAT.prefix("Be brief."))] == CHAT.prefix("Be brief.")


def test_what_an_assistant_says_first_is_left_out():
    opened = {"conversations": [{"from": "gpt", "value": "Welcome"}, *said("Hello", "Hi")]}
    assert read_conversation(opened) == read_conversation(record("Hello", "Hi"))


DEEP = [[]]
for _ in range(500):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("conversations", "message"),
    [
        (None, "list of turns"),
        ([], "not empty"),
        ("Hello", "list of turns"),
        ({"from": "human"}, "list of turns"),
        ([1], "turn 1 must be an object"),
        ([None], "turn 1 must be an object"),
        ([{}], "is from NoneType"),
        ([{"from": "bot", "value": "x"}], "allowed: human, user, gpt"),
        ([{"from": ["human"], "value": "x"}], "is from list"),
        ([{"from": "human", "value": None}], "must say a text"),
        ([{"from": "human", "value": DEEP}], "must say a text"),
        ([{"from": "human", "value": 7}, {"from": "gpt", "value": "x"}], "must say a text"),
        ([{"from": "gpt", "value": "x"}], "hold no question"),
        (said("Hello"), "no answer"),
        (said("Hello", "Hi", "And?"), "no answer"),
        (said("Hello", ""), "answer is empty"),
        (said("Hello", " \n"), "answer is empty"),
        (said("", "Hi"), "question is empty"),
        (said("Hello", "See <image>"), "an answer holds <image>"),
        ([*said("a", "b"), *said("c", "d")[1:]], "'assistant' is not due"),
        ([*said("a"), *said("b", "c")], "'user' is not due"),
        ([*said("a", "b"), {"from": "system", "value": "x"}, {"from": "gpt", "value": "x"}], "'system' is not due"),
    ],
)
def test_conversations_that_cannot_be_learned_from(conversations, message):
    with pytest.raises(TrainingDataError, match=message):
        read_conversation({"conversations": conversations})


@pytest.mark.parametrize("settings", [{"labels": "all"}, {"template": "chat"}])
def test_settings_that_do_not_exist(settings):
    with pytest.raises(ValueError, match="must be one of"):
        ConversationEncoder(CHAT, **settings)


def test_labels_align_for_the_shift_in_forward():
    """What predicts the first token of an answer is the last of the question's, and nothing of a question is live."""
    found = encode(*TURNS, labels="answers")
    labels, tokens = torch.tensor(found.labels), torch.tensor(found.ids)
    live = labels != IGNORE_INDEX
    assert (labels[live] == tokens[live]).all()
    before = [found.ids[at - 1] for at in range(1, len(live)) if live[at] and not live[at - 1]]
    assert before == ids("\n") * 2
