"""Memories that forget their beginning or their end."""

from __future__ import annotations

import pytest
import torch

from tests.inference.memories import PREFILLS, TOLERANCE, difference, pictures, seconds


@pytest.mark.parametrize("prefill", PREFILLS["tiny"])
@pytest.mark.parametrize("end", [2.0, 3.1, 6.0, 50.0])
def test_forgetting_the_end_is_not_having_read_it(engines, prefill, end):
    engine, count = engines["tiny"], 22
    memory = engine.encode(frames=pictures(count), timestamps=seconds(count), prefill=prefill)
    kept = sum(group.start_s < end for group in memory.groups) * 4
    memory.trim(end=end)
    shorter = engine.encode(frames=pictures(count)[:kept], timestamps=seconds(count)[:kept], prefill=prefill)
    assert memory.token_ids == shorter.token_ids
    assert memory.timestamps == shorter.timestamps
    assert difference(memory, shorter) <= TOLERANCE


def test_forgetting_the_beginning_closes_the_gap(engines):
    engine = engines["tiny"]
    memory = engine.encode(frames=pictures(22), timestamps=seconds(22))
    before, features = memory.fork(), memory.features(1)
    gone, head = memory.groups[2].token_start, memory.prefix_length
    memory.trim(start=4.0)
    assert memory.groups[0].start_s == 4.0
    assert memory.timestamps == before.timestamps[8:]
    assert memory.token_ids == (*before.token_ids[:head], *before.token_ids[head + gone :])
    kept = memory.features(1)
    torch.testing.assert_close(kept.values_KSE, features.values_KSE[:, gone:], rtol=0, atol=0)
    torch.testing.assert_close(kept.keys_KSE, features.keys_KSE[:, gone:], rtol=0, atol=TOLERANCE)
    assert engine.ask(memory, "What?", max_new_tokens=3).usage.memory_tokens == len(memory.token_ids)


def test_a_trimmed_memory_reads_on(engines):
    memory = engines["tiny"].encode(frames=pictures(22), timestamps=seconds(22))
    memory.trim(start=4.0)
    memory.extend(pictures(7, seed=1))
    assert memory.frames == 22 - 8 + 7
    assert len(memory.token_ids) == memory.cache.get_seq_length()
    assert len(memory.groups) == 6


@pytest.mark.parametrize("bounds", [{"start": 90.0}, {"end": 0.0}, {"start": 4.0, "end": 3.0}])
def test_something_must_be_left(engines, bounds):
    memory = engines["tiny"].encode(frames=pictures(22), timestamps=seconds(22))
    with pytest.raises(ValueError, match=r"leaves nothing of 0\.0 to 11\.0 s"):
        memory.trim(**bounds)


def test_what_was_compressed_has_no_groups_to_forget(engines):
    memory = engines["tiny-v1"].encode(frames=pictures(12))
    with pytest.raises(ValueError, match="read with beacon"):
        memory.trim(end=3)
