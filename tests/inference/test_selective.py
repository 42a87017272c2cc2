"""Video-XL-Pro reads, keeps and answers: as stated plainly, the same every time, whatever was asked before."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests.inference.test_engine import cache_of, same
from tests.model.builders import difference, pro_model
from tests.model.random_tiny import tiny_tokenizer
from videoxl import Generation, SelectivePrefill
from videoxl.config import prefill_from_string
from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.read import PrefillRunner
from videoxl.inference.prefill.selective import SelectivePrefiller
from videoxl.inference.prefill.tiles import tiles
from videoxl.model.token_scores import normalise_scores, rotate_pairs

QUESTION = "What happens at 3 seconds?"
SHORT = Generation(max_new_tokens=8)
ODD = np.random.default_rng(7).integers(0, 256, (22, 30, 40, 3), np.uint8)
"""Six groups of four frames, the last one not full: 216 visual tokens."""


@pytest.fixture(scope="module")
def engine() -> VideoXL:
    return VideoXL(pro_model(), tiny_tokenizer(), name="pro")


def plain_reading(engine: VideoXL, pixels: np.ndarray, times: list[float], keep: float, about: str) -> torch.Tensor:
    """Logits after the whole prompt, from one forward over embeddings chosen token by token (SPEC 4)."""
    model, base, config = engine.model, engine.model.model, engine.config
    prefix, suffix = engine.chat_format.prefix(), engine.chat_format.suffix(about)
    span = PrefillRunner(model, engine.chat_format.tokenize).span_of(times)
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    embed = base.get_input_embeddings()
    rows = base.embed_span(span.ids, base.encode_frames(frames).flatten(0, 1))[0]
    scores = []
    for group in span.groups:
        stamp, visual = rows[group.token_start : group.visual_start], rows[group.visual_start : group.token_end]
        real = torch.ones(1, len(stamp), dtype=torch.bool)
        scores.append(base.token_scores(visual[None], stamp[None], real, embed(torch.tensor(prefix + suffix)))[0])
    flat = normalise_scores(torch.cat(scores)).tolist()
    best = sorted(range(len(flat)), key=lambda i: -flat[i])[: int(len(flat) * keep) // 16 * 16]
    rotated, chosen, seen = rotate_pairs(rows, torch.arange(len(rows))), [], 0
    for number, token in enumerate(span.ids):
        if token != config.video_token_id:
            chosen.append(rotated[number])
            continue
        if seen in best:
            chosen.append(rotated[number] + flat[seen])
        seen += 1
    whole = torch.cat([embed(torch.tensor(prefix)), torch.stack(chosen), embed(torch.tensor(suffix))])
    return model(inputs_embeds=whole[None]).logits[0, -1]


@pytest.mark.parametrize(("keep", "kept"), [(0.85, 176), (0.7, 144), (0.3, 64), (1.0, 208)])
def test_what_is_read_is_what_a_plain_statement_says(engine, keep, kept):
    pixels = np.random.default_rng(1).integers(0, 256, (22, 28, 28, 3), np.uint8)
    times = [0.5 * i for i in range(22)]
    memory = engine.encode(pixels, timestamps=times, prefill=SelectivePrefill(keep=keep, about=QUESTION))
    assert sum(i == engine.config.video_token_id for i in memory.token_ids) == kept
    with torch.inference_mode():
        wanted = plain_reading(engine, pixels, times, keep, QUESTION)
        ids = torch.tensor([engine.chat_format.suffix(QUESTION)])
        got = engine.model(input_ids=ids, past_key_values=memory.cache.fork(), logits_to_keep=1).logits[0, -1]
    assert difference(got, wanted) < 1e-4  # measured: 6.9e-7


def test_all_timestamps_stay_and_the_ids_stand_for_the_cache(engine):
    memory = engine.encode(ODD, fps=2, prefill=SelectivePrefill(keep=0.3))
    span = PrefillRunner(engine.model, engine.chat_format.tokenize).span_of(list(memory.timestamps))
    pad = engine.config.video_token_id
    assert [i for i in memory.token_ids[memory.prefix_length :] if i != pad] == [i for i in span.ids if i != pad]
    assert engine.tokenizer.decode(memory.token_ids).count("Time 00") == 6
    assert memory.cache.get_seq_length() == len(memory.token_ids)
    assert memory.usage.visual_tokens == 216
    assert memory.duration == 11.0


def test_answer_judges_by_its_question_and_encode_by_what_it_is_told(engine, clip):
    answered = engine.answer(clip, QUESTION, generation=SHORT)
    told = engine.encode(clip, prefill=SelectivePrefill(about=QUESTION))
    assert engine.ask(told, QUESTION, generation=SHORT).token_ids == answered.token_ids
    assert answered.usage.prefill == f"selective:about={QUESTION}"
    untold = engine.encode(clip)
    assert untold.prefill == "selective"
    assert not same(cache_of(told), cache_of(untold))
    alone = engine.encode(clip, prefill=SelectivePrefill(about=""))
    assert same(cache_of(alone), cache_of(untold))
    chosen = engine.answer(clip, QUESTION, prefill="selective:keep=0.5,about=goals", generation=SHORT)
    assert chosen.usage.prefill == "selective:keep=0.5,about=goals"


def test_answers_repeat_in_any_order_and_leave_random_generators_alone(engine, clip):
    first, second = engine.answer(clip, QUESTION, generation=SHORT), engine.answer(ODD, "Why?", generation=SHORT)
    states = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    again = [engine.answer(v, q, generation=SHORT).token_ids for v, q in ((ODD, "Why?"), (clip, QUESTION))]
    assert again == [second.token_ids, first.token_ids]
    random.seed(5), torch.manual_seed(5), np.random.seed(5)
    assert engine.answer(clip, QUESTION, generation=SHORT).token_ids == first.token_ids
    random.setstate(states[0])
    torch.random.set_rng_state(states[1])
    engine.answer(ODD, QUESTION, generation=SHORT)
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_tiles_do_not_change_what_is_kept(engine):
    def read(size: int) -> tuple:
        batch = type("Batch", (), {"pixels_FHWC": frames, "timestamps_F": np.arange(22.0)})
        prefix = engine.chat_format.prefix()
        prefiller = SelectivePrefiller(engine.model, prefix, SelectivePrefill(), text_ids=prefix)
        filled = PrefillRunner(engine.model, engine.chat_format.tokenize).run(
            prefix, tiles([batch], size), prefiller=prefiller
        )
        return filled.token_ids, filled.cache

    frames = np.random.default_rng(2).integers(0, 256, (22, 28, 28, 3), np.uint8)
    whole_ids, whole = read(96)
    for size in (4, 12):
        ids, cache = read(size)
        assert ids == whole_ids
        pairs = [(a.keys, b.keys) for a, b in zip(cache.layers, whole.layers)]
        assert max(difference(a, b) for a, b in pairs) < 1e-4  # measured: 1.6e-6


def test_full_prefill_and_still_pictures(engine):
    full = engine.encode(ODD, prefill="full")
    assert full.prefill == "full"
    assert sum(i == engine.config.video_token_id for i in full.token_ids) == 216
    picture = engine.answer(ODD[:1], "What is this?", generation=SHORT)
    assert picture.usage.frames == 1
    assert picture.usage.memory_tokens == full.prefix_length + 10 + 16  # of 36 visual tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision_keeps_mostly_the_same(engine, dtype, attention):
    model = pro_model().to(dtype)
    model.set_attn_implementation(attention)
    half, whole = VideoXL(model, tiny_tokenizer()).encode(ODD, fps=2), engine.encode(ODD, fps=2)
    assert len(half.token_ids) == len(whole.token_ids)
    assert half.cache.layers[0].keys.dtype == dtype
    agree = sum(a == b for a, b in zip(half.token_ids, whole.token_ids)) / len(whole.token_ids)
    assert agree > 0.7  # measured: 0.86 in bf16, 1.0 in fp16; a timestamp moves by one where another token is kept


def test_a_video_over_ten_thousand_seconds_has_timestamps_of_two_lengths(engine):
    memory = engine.encode(ODD[:12], timestamps=[9_990.0 + 2 * i for i in range(12)])
    text = engine.tokenizer.decode(memory.token_ids)
    assert [f"Time {t}s:" in text for t in ("9990.0", "9998.0", "10006.0")] == [True] * 3


@pytest.mark.parametrize("keep", [0, -0.5, 1.01, float("nan"), "most", True])
def test_a_share_that_is_none_is_refused(keep):
    with pytest.raises(ValueError, match="keep must be"):
        SelectivePrefill(keep=keep)


def test_other_families_and_wrong_words_are_refused(engine, tiny, clip):
    with pytest.raises(ValueError, match=r"'selective' is not for video-xl-2; it has full"):
        tiny.encode(clip, prefill="selective")
    with pytest.raises(ValueError, match=r"'beacon' is not for video-xl-pro; it has full, selective"):
        engine.encode(clip, prefill="beacon")
    with pytest.raises(ValueError, match="about must be text or None, got 3"):
        SelectivePrefill(about=3)


@pytest.mark.parametrize("about", ["", "goals, fouls = 100% + 3", "2024", "什么时候?", " a\nb ", None])
def test_strategies_are_their_text(about):
    strategy = SelectivePrefill(keep=0.5, about=about)
    assert prefill_from_string(str(strategy)) == strategy
