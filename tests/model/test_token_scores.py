"""Video-XL-Pro's selection against a plain statement of it, token by token."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from tests.model.builders import difference, noise, randomised
from videoxl.model.token_scores import (
    HEADS,
    TokenScores,
    kept_count,
    normalise_scores,
    rotate_pairs,
    scored_embeddings,
    select_tokens,
)


def plain_scores(module: TokenScores, visual: list, times: list, text: torch.Tensor) -> list[list[float]]:
    """Per group and visual token; ``visual`` and ``times`` hold one list of vectors per group (SPEC 4, steps 1, 2)."""
    words = [module.text_mlp(word) for word in text]
    attention, size = module.attention, text.shape[1] // HEADS
    scores = []
    for tokens, stamps in zip(visual, times):
        offered = [attention.q_proj(stamp) for stamp in stamps]
        row = []
        for token in tokens:
            key = attention.k_proj(token)
            heads = []
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                weights = [math.exp(float(key[part] @ value[part]) / math.sqrt(size)) for value in offered]
                heads.append(sum(w * value[part] for w, value in zip(weights, offered)) / sum(weights))
            gathered = attention.out_proj(torch.cat(heads))
            row.append(sum(float(gathered @ word) for word in words) / len(words))
        scores.append(row)
    return scores


def plain_rotation(vector: torch.Tensor, position: int) -> torch.Tensor:
    """Neighbouring channels as complex numbers, turned by ``position`` times their rate."""
    out = []
    for pair in range(len(vector) // 2):
        angle = position * 1e6 ** (-2 * pair / len(vector))
        turned = complex(float(vector[2 * pair]), float(vector[2 * pair + 1])) * cmath.exp(1j * angle)
        out += [turned.real, turned.imag]
    return torch.tensor(out)


def padded(times: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(t) for t in times)
    rows = torch.stack([torch.cat([t, noise(longest - len(t), t.shape[1], seed=9)]) for t in times])
    return rows, torch.tensor([[i < len(t) for i in range(longest)] for t in times])


@pytest.mark.parametrize(
    ("groups", "tokens", "stamps", "words", "width"),
    [(1, 1, [10], 1, 8), (2, 9, [10, 10], 5, 12), (5, 7, [10] * 5, 3, 32), (3, 4, [10, 11, 1], 26, 20)],
)
def test_scores_are_those_of_the_plain_statement(groups, tokens, stamps, words, width):
    module = randomised(TokenScores(width)).eval()
    visual, text = noise(groups, tokens, width), noise(words, width, seed=2)
    times = [noise(n, width, seed=3 + i) for i, n in enumerate(stamps)]
    with torch.no_grad():
        scores = module(visual, *padded(times), text)
        wanted = torch.tensor(plain_scores(module, list(visual), times, text))
    assert difference(scores, wanted) < 1e-5  # measured: 5.8e-7


def test_groups_do_not_see_one_another():
    module = randomised(TokenScores(16)).eval()
    visual, times, text = noise(6, 5, 16), noise(6, 10, 16, seed=2), noise(4, 16, seed=3)
    real = torch.ones(6, 10, dtype=torch.bool)
    with torch.no_grad():
        whole = module(visual, times, real, text)
        apart = [module(visual[i : i + 1], times[i : i + 1], real[:1], text) for i in range(6)]
    assert difference(torch.cat(apart), whole) < 1e-5  # measured: 9.8e-8


def test_every_weight_but_the_unused_one_has_a_gradient():
    module = randomised(TokenScores(16))
    scores = module(noise(2, 5, 16), noise(2, 10, 16, seed=2), torch.ones(2, 10, dtype=torch.bool), noise(4, 16))
    scores.square().sum().backward()
    idle = {name for name, p in module.named_parameters() if p.grad is None}
    assert idle == {"attention.v_proj.weight", "attention.v_proj.bias"}


def test_a_width_that_does_not_split_into_heads_is_refused():
    with pytest.raises(ValueError, match="divisible by 4, got 10"):
        TokenScores(10)


@pytest.mark.parametrize("width", [2, 8, 64])
def test_rotation_pairs_neighbours(width):
    embeds, positions = noise(7, width), torch.tensor([0, 1, 2, 153, 154, 5000, 99_999])
    wanted = torch.stack([plain_rotation(e, int(p)) for e, p in zip(embeds, positions)])
    # angles are fp32: far out the fastest pairs lose digits; measured: 1.1e-3, and 2.5e-6 for the first positions
    assert difference(rotate_pairs(embeds, positions), wanted) < 1e-2
    assert difference(rotate_pairs(embeds, positions)[:5], wanted[:5]) < 1e-5
    assert rotate_pairs(embeds.half(), positions).dtype == torch.float16


def test_scores_join_every_channel_after_rotation():
    embeds, positions, scores = noise(3, 8), torch.tensor([4, 5, 9]), torch.tensor([0.0, 0.5, 1.0])
    got = scored_embeddings(embeds, positions, scores)
    assert torch.equal(got - rotate_pairs(embeds, positions) > 0, torch.tensor([[False], [True], [True]]).expand(3, 8))
    assert difference(got, rotate_pairs(embeds, positions) + scores[:, None]) < 1e-6


def test_scores_span_zero_to_one():
    scores = normalise_scores(torch.tensor([-3.0, 1.0, 5.0]))
    assert scores.tolist() == [0.0, 0.5, 1.0]
    assert normalise_scores(torch.full((4,), 2.5)).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("tokens", "keep", "kept"),
    [
        (288, 0.8311900705178474, 224),
        (288, 1.0, 288),
        (288, 0.7, 192),
        (144, 0.1, 16),
        (9, 0.5, 9),
        (40, 0.01, 16),
        (0, 0.5, 0),
    ],
)
def test_how_many_stay(tokens, keep, kept):
    assert kept_count(tokens, keep) == kept
    assert int(select_tokens(noise(tokens), keep).sum()) == kept


def test_the_highest_stay_and_of_equal_ones_the_earlier():
    scores = noise(100)
    kept = select_tokens(scores, 0.5)
    assert scores[kept].min() > scores[~kept].max()
    assert select_tokens(torch.zeros(100), 0.33).tolist() == [True] * 32 + [False] * 68
