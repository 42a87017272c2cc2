"""transformers' ``generate`` on videos: every way of searching, and placeholders beyond the vocabulary."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, StaticCache, StoppingCriteria

import videoxl
from tests.model.builders import pro_model, small_beacon_model, small_model
from tests.model.random_tiny import tiny_tokenizer
from videoxl.hf.processing import VideoXLProcessor
from videoxl.model.generation import check_ids

MAKERS = {"video-xl": small_beacon_model, "video-xl-2": small_model, "video-xl-pro": pro_model}
BEYOND = {"video_token_id": 151654, "image_token_id": 151655}
PICTURES = np.random.default_rng(0).integers(0, 256, (10, 40, 40, 3), dtype=np.uint8)
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_pad|>\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module", params=MAKERS)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def models(family):
    """A model, and the same one whose placeholders lie beyond its vocabulary, as the released ids do in small ones."""
    return MAKERS[family](), MAKERS[family](**BEYOND)


def inputs_for(model, *questions: str, pictures=PICTURES):
    processor = VideoXLProcessor.from_config(model.config, tiny_tokenizer())
    text = [HEAD + question + TAIL for question in questions or ("What?",)]
    return processor(text=text, videos=[pictures for _ in text], fps=1, return_tensors="pt")


def answers(model, *questions: str, **settings) -> list[list[int]]:
    inputs = inputs_for(model, *questions)
    out = model.generate(**inputs, **{"max_new_tokens": 5, **settings})
    sequences = out if isinstance(out, torch.Tensor) else out.sequences
    given = inputs["input_ids"].repeat_interleave(len(sequences) // len(inputs["input_ids"]), dim=0)
    assert torch.equal(sequences[:, : given.shape[1]], given)
    return sequences[:, given.shape[1] :].tolist()


SEARCHES = [
    {},
    {"num_beams": 3},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 2, "do_sample": True},
    {"do_sample": True, "num_return_sequences": 3, "top_k": 5},
    {"prompt_lookup_num_tokens": 3},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"use_cache": False},
    {"return_dict_in_generate": True, "output_scores": True, "num_beams": 2},
    {"bad_words_ids": [[5], [6, 7]], "min_new_tokens": 2},
    {"guidance_scale": 1.5},
]


@pytest.mark.parametrize("settings", SEARCHES, ids=str)
def test_every_search_reads_placeholders_beyond_the_vocabulary(models, settings):
    found = []
    for model in models:
        torch.manual_seed(3)
        found.append(answers(model, **settings))
    assert found[0] == found[1]
    assert len(found[0]) == settings.get("num_return_sequences", 1)


def test_searches_that_must_find_the_same_do(models):
    greedy = answers(models[0])
    assert answers(models[0], use_cache=False) == greedy
    assert answers(models[0], prompt_lookup_num_tokens=3) == greedy
    assert answers(models[0], num_beams=1, num_return_sequences=1) == greedy


def test_beams_see_the_whole_video(models):
    """Every beam scored by hand: log-probabilities along its path, from forward passes over the whole prompt."""
    model = models[0]
    inputs = inputs_for(model)
    out = model.generate(
        **inputs, max_new_tokens=2, num_beams=4, num_return_sequences=4, length_penalty=0.0, output_scores=True,
        return_dict_in_generate=True, min_new_tokens=2,
    )  # fmt: skip
    new = out.sequences[:, inputs["input_ids"].shape[1] :]
    for tokens, score in zip(new, out.sequences_scores):
        assert path_score(model, inputs, tokens.tolist()) == pytest.approx(float(score), abs=1e-3)


def path_score(model, inputs, tokens: list[int]) -> float:
    total = 0.0
    for number, token in enumerate(tokens):
        prompt = {**inputs, "input_ids": torch.cat([inputs["input_ids"], torch.tensor([tokens[:number]]).long()], 1)}
        prompt.pop("attention_mask")
        with torch.no_grad():
            total += float(model(**prompt).logits[0, -1].log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("name", ["video-xl-2", "video-xl-pro"])
def test_a_padded_batch_with_beams_equals_single_prompts(name):
    model, questions = MAKERS[name](), ("What?", "And what else is there to be seen?")
    singles = [answers(model, question, num_beams=2)[0] for question in questions]
    assert answers(model, *questions, num_beams=2) == singles


@pytest.mark.parametrize("search", [{}, {"num_beams": 2}], ids=str)
def test_lengths_count_the_prompt_that_was_given(models, search):
    given = inputs_for(models[0])["input_ids"].shape[1]
    assert len(answers(models[0], max_new_tokens=None, max_length=given + 3, min_new_tokens=2, **search)[0]) == 3
    config = GenerationConfig(max_length=given + 2, min_new_tokens=2, **search)
    assert len(answers(models[0], max_new_tokens=None, generation_config=config)[0]) == 2
    with pytest.raises(ValueError, match=rf"max_length={given} counts the prompt, which has {given} tokens"):
        answers(models[0], max_new_tokens=None, max_length=given)


class Watch(StoppingCriteria):
    """Remembers what it is shown, and stops after two tokens; answers with a plain bool."""

    def __init__(self, given: int) -> None:
        self.given, self.seen = given, []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append(input_ids.clone())
        return input_ids.shape[1] >= self.given + 2


def test_stopping_criteria_see_the_prompt_that_was_given(models):
    ids = inputs_for(models[1])["input_ids"]
    watch = Watch(ids.shape[1])
    assert len(answers(models[1], stopping_criteria=[watch])[0]) == 2
    assert torch.equal(watch.seen[0][:, : ids.shape[1]], ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_implementation": "static"}, "a static cache is not supported"),
        ({"generation_config": GenerationConfig(cache_implementation="static")}, "a static cache is not supported"),
        ({"cache_implementation": "quantized"}, "cannot hold a video that was read before"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, "Group Beam Search requires"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "Contrastive Search requires"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
    ],
    ids=str,
)
def test_searches_that_are_not_there_are_refused(models, settings, message):
    with pytest.raises(ValueError, match=message):
        answers(models[0], **settings)


def test_an_assistant_that_would_be_blind_is_refused(models):
    with pytest.raises(ValueError, match="an assistant_model is told ids alone and would not see the pictures"):
        answers(models[0], assistant_model=models[0])


def test_a_language_model_may_assist(models):
    config = Qwen2Config(
        vocab_size=models[0].config.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    for model in models:
        assert answers(model, assistant_model=Qwen2ForCausalLM(config).eval()) == answers(models[0])


def test_a_static_cache_is_refused(models):
    model = models[0]
    cache = StaticCache(model.config.text_config, max_cache_len=8)
    with pytest.raises(ValueError, match="a static cache is not supported"):
        model.generate(torch.tensor([[5, 6]]), past_key_values=cache)


def test_a_prompt_that_ends_with_its_video_is_refused(models):
    inputs = {**inputs_for(models[0])}
    end = int((inputs["input_ids"][0] == models[0].config.video_token_id).nonzero().max()) + 1
    inputs = {
        name: value[:, :end] if name in ("input_ids", "attention_mask") else value for name, value in inputs.items()
    }
    with pytest.raises(ValueError, match="the prompt ends with a picture"):
        models[0].generate(**inputs, max_new_tokens=2)


# ------------------------------------------------------------------------------- placeholders beyond the vocabulary


def test_the_engine_reads_placeholders_beyond_the_vocabulary(models, tmp_path):
    found = []
    for model in models:
        engine = videoxl.VideoXL(model, tiny_tokenizer())
        memory = engine.encode(PICTURES, fps=1)
        memory.save(tmp_path / "a.vxl")
        again = videoxl.VideoMemory.load(tmp_path / "a.vxl", engine)
        asked = [engine.ask(one, "What?", max_new_tokens=4).token_ids for one in (memory, again)]
        asked.append(engine.ask(memory, "What?", max_new_tokens=4, repetition_penalty=1.3).token_ids)
        asked.append(engine.ask(memory, "What?", max_new_tokens=4, num_beams=2, repetition_penalty=1.3).token_ids)
        found.append(asked)
    assert found[0] == found[1]
    assert found[0][0] == found[0][1]


@pytest.mark.parametrize("prefill", ["chunked:chunk_size=2,step_size=1", "chunked:chunk_size=2,step_size=1,mode=mask"])
@pytest.mark.parametrize("decode", ["dense", "bilevel:block_size=1,top_k=1"])
def test_chunks_and_levels_read_placeholders_beyond_the_vocabulary(prefill, decode):
    found = []
    for settings in ({}, BEYOND):
        engine = videoxl.VideoXL(small_model(**settings), tiny_tokenizer())
        memory = engine.encode(PICTURES[:5], fps=1, prefill=prefill)
        memory.extend(PICTURES[5:])
        found.append(engine.ask(memory, "What?", decode=decode, max_new_tokens=4).token_ids)
    assert found[0] == found[1]


def test_training_reads_placeholders_beyond_the_vocabulary(models):
    losses, gradients = [], []
    for model in models:
        model = copy.deepcopy(model).train()
        inputs = inputs_for(model)
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.video_token_id, -100)
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(model.model.vision_tower.embeddings.patch_embedding.weight.grad)
    assert losses[0] == losses[1]
    assert torch.equal(gradients[0], gradients[1])
    assert float(gradients[0].abs().max()) > 0


def test_ids_that_no_token_has_are_refused(models):
    model = models[0]
    rows = model.model.vocabulary_rows
    with pytest.raises(
        ValueError, match=f"the id {rows}, and the model's vocabulary ends at {rows - 1}: the tokenizer"
    ):
        model(torch.tensor([[1, rows]]))
    with pytest.raises(ValueError, match="the prompt holds the id -200, which no token has"):
        model.generate(torch.tensor([[1, -200, 2]]), max_new_tokens=1)
    check_ids((0, rows - 1), rows)


def test_a_question_of_tokens_that_the_model_lacks_is_refused():
    engine = videoxl.VideoXL(small_model(text={"vocab_size": 250}), tiny_tokenizer())
    with pytest.raises(ValueError, match="the tokenizer and the model do not belong together"):
        engine.ask(engine.encode(PICTURES, fps=1), "What?", max_new_tokens=2)
