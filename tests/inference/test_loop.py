"""Text as it is streamed, and sampling with a random state of its own."""

from __future__ import annotations

import pytest
import torch
import transformers

from tests.model.random_tiny import tiny_tokenizer
from videoxl.config import Generation
from videoxl.inference.decode.choice import RepetitionPenalty, SeededSampler
from videoxl.inference.decode.text import TextPieces


def stream(ids: list[int]) -> list[str]:
    """What a reader gets when tokens come one by one, as from ``generate``."""
    pieces = TextPieces(tiny_tokenizer())
    return [*(pieces.push(token) for token in ids), pieces.rest()]


@pytest.mark.parametrize("text", ["plain words", "日本語のテキスト", "สวัสดี", "smile 🙂, naïve\nline", "nospacesatall"])
def test_every_character_is_told_as_soon_as_it_is_complete(text: str) -> None:
    pieces = [p for p in stream(tiny_tokenizer().encode(text)) if p]
    assert "".join(pieces) == text
    assert max(len(p) for p in pieces) <= len("Time")  # the longest token


def test_broken_bytes_come_out_as_decoding_all_at_once_gives_them() -> None:
    tokenizer = tiny_tokenizer()
    letters = tokenizer.encode("aé日🙂")
    ids = [*letters[:2], letters[0], *letters[4:5], *letters[3:], tokenizer.eos_token_id]
    assert "".join(stream(ids)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_special_tokens_are_not_told() -> None:
    tokenizer = tiny_tokenizer()
    assert "".join(stream([*tokenizer.encode("yes"), tokenizer.eos_token_id])) == "yes"


def test_sampling_draws_from_the_distribution() -> None:
    """Gumbel noise and the largest: frequencies of 20,000 draws against the probabilities, 5 standard errors."""
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    sampler = SeededSampler(Generation(do_sample=True, seed=1), torch.device("cpu"))
    scores = probabilities.log().expand(20_000, -1)
    drawn = sampler(scores).argmax(-1)
    seen = torch.bincount(drawn, minlength=4) / 20_000
    error = (probabilities * (1 - probabilities) / 20_000).sqrt()
    assert ((seen - probabilities).abs() < 5 * error).all()


def test_warpers_shape_the_distribution() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(2_000, -1)
    for settings, allowed in (({"top_k": 2}, {0, 1}), ({"top_p": 0.7}, {0, 1}), ({"temperature": 0.01}, {0})):
        sampler = SeededSampler(Generation(do_sample=True, **settings), torch.device("cpu"))
        drawn = sampler(scores.clone()).argmax(-1)
        assert set(drawn.tolist()) == allowed


def test_same_seed_same_draws_and_the_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    scores = torch.randn(50, 8, generator=torch.Generator().manual_seed(3))
    draws = [
        SeededSampler(Generation(do_sample=True, seed=seed), torch.device("cpu"))(scores).argmax(-1).tolist()
        for seed in (7, 7, 8)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_penalty_is_that_of_transformers() -> None:
    prompt, scores = [3, 5, 5, 9], torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    penalty = RepetitionPenalty(1.4, prompt, torch.device("cpu"))
    theirs = transformers.RepetitionPenaltyLogitsProcessor(1.4)
    assert torch.equal(penalty(scores), theirs(torch.tensor([prompt, prompt]), scores.clone()))
    penalty.add(torch.tensor([0]))
    assert torch.equal(penalty(scores), theirs(torch.tensor([[*prompt, 0]] * 2), scores.clone()))
