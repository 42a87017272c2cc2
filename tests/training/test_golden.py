"""Recorded training runs through the data path of training: prompts to examples, examples to batches, batches to loss.

The recordings hold ids drawn at random and no text. What can be had from text is which places are learned: all of it
where the recording learns the answer alone, and in front of the picture where it has the released template there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, pre_tokenizers

from tests.model.random_tiny import QWEN2_SPLIT, SPECIAL_TOKENS
from tests.parity.test_parity import GOLDEN
from tests.training.records import record
from videoxl.inference.prompt import IGNORE_INDEX, ChatFormat, span_for
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.parity.golden import GoldenFolder, write_checkpoint
from videoxl.parity.runs import text_tokenizer
from videoxl.training.data.collator import Collator
from videoxl.training.data.conversations import ConversationEncoder, Encoded, read_conversation
from videoxl.training.data.examples import Example

FOLDER = GoldenFolder.open(GOLDEN)
CASES = {spec["id"]: FOLDER.case(spec) for spec in FOLDER.cases if spec["kind"] in ("v1_train", "v2_train")}


def load(case):
    """The case's model, and its configuration."""
    described = case.needs_model()
    extra = dict(case.spec.get("config_overrides", {}))
    if "special_ids" in described:
        extra["video_token_id"] = described["special_ids"]["<visual>"]
    with tempfile.TemporaryDirectory() as scratch:
        write_checkpoint(Path(scratch) / "model", described, extra)
        return VideoXLForConditionalGeneration.from_pretrained(Path(scratch) / "model", attn_implementation="sdpa")


@pytest.mark.parametrize("name", ["v1_train_r4", "v1_train_r4_long_answer", "v1_train_step_random", "v2_train_8f"])
def test_recorded_losses_come_out_of_batches(name):
    case = CASES[name]
    model, pixels = load(case), torch.from_numpy(case.pixels())
    ids, labels = case.expected("prompt_ids").tolist(), case.expected("labels").tolist()
    tokenize = text_tokenizer(case.needs_model()["special_ids"]) if name.startswith("v2") else list
    times = case.spec.get("timestamps") or [float(n) for n in range(len(pixels))]
    placed = Encoded(ids, labels, [0] * len(ids), [0] * len(ids)).place([span_for(model.config, times, tokenize).ids])
    example = Example(name, "video", placed.ids, placed.labels, placed.segments, None, None, (), False)
    short = Example("pad", "text", placed.ids[:3], [IGNORE_INDEX] * 3, [0] * 3, None, None, (), False)
    rows = [example, short] if name.startswith("v2") else [example]  # Video-XL takes batches of one kind
    batch = Collator(model.config, 0)(rows)
    assert batch.pop("bad_samples") == []
    batch |= {"pixel_values_videos": pixels, "frames_per_video": torch.tensor([len(pixels)])}
    model.train()
    loss = model(**batch).loss.detach().reshape(1)
    case.compare("loss", loss)
    assert case.comparisons[-1].share <= 1, case.comparisons[-1]


# ------------------------------------------------------------------------------------------------ from text to labels


def words(text: str) -> list[str]:
    """Text as Qwen2's tokenizer would cut it if it knew every word: special tokens, words, line breaks."""
    special = pre_tokenizers.Split(Regex("|".join(t.replace("|", r"\|") for t in SPECIAL_TOKENS)), "isolated")
    split = pre_tokenizers.Sequence([special, pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")])
    found: list[str] = []
    for piece, _ in special.pre_tokenize_str(text):
        found += [piece] if piece in SPECIAL_TOKENS else [word for word, _ in split.pre_tokenize_str(piece)]
    return found


def chat_format() -> ChatFormat:
    """One id a word."""
    known: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        return [known.setdefault(word, 1000 + len(known)) for word in words(text)]

    return ChatFormat(encode, encode)


def places(labels) -> list[bool]:
    return [label != IGNORE_INDEX for label in labels]


def sentence(count: int) -> str:
    return " ".join(["word"] * count)


@pytest.mark.parametrize("name", [name for name in CASES if name != "v1_train_r4"])
def test_recorded_labels_of_answers_come_from_text(name):
    """The same places are learned when a question and an answer of as many words are encoded."""
    recorded, at = CASES[name].expected("labels").tolist(), CASES[name].spec["image_at"]
    answer = sum(places(recorded)) - 1  # and its end
    question = len(recorded) - (at + 1) - answer - 1 - len(words("\n<|im_end|>\n<|im_start|>assistant\n"))
    one = record(f"<image>\n{sentence(question)}", sentence(answer))
    if at != 14:  # not the default system prompt
        one["conversations"].insert(0, {"from": "system", "value": sentence(at - 8)})
    found = ConversationEncoder(chat_format(), labels="answers").multi_turn(read_conversation(one))
    assert places(found.labels) == places(recorded)


def test_recorded_labels_of_the_template_come_from_text():
    """``v1_train_r4`` learns the system turn's template as the released training does, but not the question's."""
    recorded = CASES["v1_train_r4"].expected("labels").tolist()
    encoder = ConversationEncoder(chat_format(), labels="released")
    found = encoder.multi_turn(read_conversation(record(f"<image>\n{sentence(2)}", sentence(13))))
    at = CASES["v1_train_r4"].spec["image_at"]
    assert places(found.labels)[: at + 1] == places(recorded)[: at + 1]
    assert places(found.labels)[at + 9 :][:14] == places(recorded)[at + 9 :]
    assert places(recorded)[: at + 1] == [n in (0, 9, 10, 11) for n in range(at + 1)]
