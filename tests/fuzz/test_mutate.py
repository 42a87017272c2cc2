"""The damage itself: the same for the same seed, and of every kind."""

from __future__ import annotations

import json
import time
from random import Random

import pytest

from tests.fuzz.mutate import TookTooLongError, mutate_bytes, mutate_json, seeds, within

GOOD = json.dumps({"a": 1, "b": {"c": [1, 2.5, "text"], "d": None}, "e": True}).encode()


def test_a_seed_gives_the_same_damage_twice_and_most_seeds_give_their_own():
    for damage in (mutate_bytes, mutate_json):
        once = [damage(GOOD, Random(seed)) for seed in range(500)]
        assert once == [damage(GOOD, Random(seed)) for seed in range(500)]
        assert len(set(once)) > 350


def test_much_of_the_damage_to_json_is_json_and_some_is_not():
    def reads(data: bytes) -> bool:
        try:
            json.loads(data)
        except (ValueError, RecursionError):
            return False
        return True

    read = sum(reads(mutate_json(GOOD, Random(seed))) for seed in range(500))
    assert 250 < read < 490


def test_time_is_limited(monkeypatch):
    with pytest.raises(TookTooLongError), within(0.05):
        time.sleep(5)
    monkeypatch.delenv("VIDEOXL_FUZZ_SECONDS", raising=False)
    monkeypatch.setenv("VIDEOXL_FUZZ_SEED", "7")
    assert list(seeds(3)) == [7, 8, 9]
    monkeypatch.setenv("VIDEOXL_FUZZ_SECONDS", "0.05")
    assert len(list(seeds(3))) > 100
