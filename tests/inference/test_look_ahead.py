"""Tokens that are written before one is looked at: nobody sees those behind the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from videoxl.config import Generation
from videoxl.inference.decode.loop import LOOK_AFTER, decode_tokens, looks_on
from videoxl.inference.engine import VideoXL
from videoxl.memory.kv_cache import KVCache

PROMPT = list(range(10, 40))
WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "seed": 3},
    "penalised": {"repetition_penalty": 1.5},
}


def write(engine: VideoXL, settings: Generation, **how: Any) -> tuple[list[int], list[torch.Tensor], KVCache]:
    cache = KVCache(engine.model.model.num_text_layers)
    tokens = list(decode_tokens(engine.model, PROMPT, cache, settings, keep_logits=True, **how))
    return [t.id for t in tokens], [t.logits_V for t in tokens if t.logits_V is not None], cache


def same_content(one: KVCache, other: KVCache) -> bool:
    pairs = zip(one.layers, other.layers)
    return all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in pairs)


def test_looks_come_after_more_and_more_tokens_on_a_gpu() -> None:
    looks = looks_on(torch.device("cuda"), every_step=False)
    assert [next(looks) for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    for looks in (looks_on(torch.device("cuda"), every_step=True), looks_on(torch.device("cpu"), every_step=False)):
        assert [next(looks) for _ in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", [None, 0, 1, 4, 5])
def test_answers_logits_and_cache_are_those_of_a_look_at_every_token(
    tiny: VideoXL, monkeypatch: pytest.MonkeyPatch, way: str, end: int | None
) -> None:
    settings = Generation(max_new_tokens=9, **WAYS[way])
    end_ids = [] if end is None else write(tiny, settings)[0][end : end + 1]
    ids, logits, cache = write(tiny, settings, end_ids=end_ids)
    before = torch.get_rng_state()
    monkeypatch.setitem(LOOK_AFTER, "cpu", (1, 3, 4))
    ahead_ids, ahead_logits, ahead_cache = write(tiny, settings, end_ids=end_ids)
    assert ahead_ids == ids
    assert all(torch.equal(a, b) for a, b in zip(ahead_logits, logits, strict=True))
    assert len(ahead_cache) == len(cache) == len(PROMPT) + len(ids) - 1
    assert same_content(ahead_cache, cache)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stop_sees_every_token_once_and_whoever_leaves_gets_a_cache_of_what_was_told(
    tiny: VideoXL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOOK_AFTER, "cpu", (8,))
    seen: list[int] = []

    def stop(new_ids: list[int]) -> bool:
        seen.append(len(new_ids))
        return len(new_ids) == 4

    ids, _, cache = write(tiny, Generation(max_new_tokens=9), stop=stop)
    assert seen == [1, 2, 3, 4]
    assert len(cache) == len(PROMPT) + 3
    left = KVCache(tiny.model.model.num_text_layers)
    tokens = decode_tokens(tiny.model, PROMPT, left, Generation(max_new_tokens=9))
    assert [next(tokens).id for _ in range(4)] == ids
    tokens.close()
    assert same_content(left, cache)


class Forbidding:
    """Forbids the tokens that were written, and notes what it was shown."""

    def __init__(self, reads_tokens: bool) -> None:
        self.reads_tokens, self.seen = reads_tokens, []

    def __call__(self, scores_BV: torch.Tensor, new_ids: Sequence[int]) -> torch.Tensor:
        self.seen.append(list(new_ids))
        return scores_BV.index_fill(1, torch.tensor(list(new_ids), dtype=torch.long), -torch.inf)


def test_a_processor_that_reads_tokens_is_shown_all_of_them_at_every_step(
    tiny: VideoXL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOOK_AFTER, "cpu", (4,))
    processor = Forbidding(reads_tokens=True)
    ids, _, _ = write(tiny, Generation(max_new_tokens=6), processor=processor)
    assert processor.seen == [ids[:n] for n in range(6)]
    assert len(set(ids)) == 6
    late = Forbidding(reads_tokens=False)
    write(tiny, Generation(max_new_tokens=6), processor=late)
    assert [len(shown) for shown in late.seen] == [0, 1, 1, 1, 1, 5]
