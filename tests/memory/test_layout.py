"""Chunked prefill as bookkeeping, against the rule stated token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoxl.memory.layout import GroupLayout, TilePlanner, allowed_mask

VISUAL = 7


@st.composite
def sequences(draw) -> tuple[list[int], int, list[tuple[int, int, int]]]:
    """Ids of a prompt up to the end of its video, the prefix's length, and (start, visual, end) of the groups."""
    prefix = draw(st.integers(0, 5))
    sizes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=14))
    ids, groups = [1] * prefix, []
    for times, visuals in sizes:
        groups.append((len(ids), len(ids) + times, len(ids) + times + visuals))
        ids += [2] * times + [VISUAL] * visuals
    return ids, prefix, groups


def rule(ids: list[int], prefix: int, end: int, groups: list[tuple[int, int, int]], block: int, previous: int):
    """SPEC 3.6, one pair at a time."""
    block_of = {t: n // block for n, (start, _, stop) in enumerate(groups) for t in range(start, stop)}
    is_time = [prefix <= t < end and ids[t] != VISUAL for t in range(len(ids))]

    def may(i: int, j: int) -> bool:
        if j > i:
            return False
        if j < prefix or i >= end or is_time[i] or is_time[j]:
            return True
        return i >= prefix and block_of[i] - block_of[j] <= previous

    return np.array([[may(i, j) for j in range(len(ids))] for i in range(len(ids))])


@given(sequences(), st.integers(0, 4), st.integers(1, 5), st.integers(0, 4))
def test_the_mask_is_the_rule(sequence, suffix, block, previous):
    ids, prefix, groups = sequence
    whole = ids + [1] * suffix
    layout = GroupLayout.from_ids(whole, prefix, VISUAL, len(ids))
    want = rule(whole, prefix, len(ids), groups, block, previous)
    settings = {"block_size": block, "previous_blocks": previous}
    assert (allowed_mask(layout, len(whole), **settings) == want).all()
    assert (allowed_mask(layout, len(whole), **settings, first_row=prefix) == want[prefix:]).all()


@given(sequences())
def test_groups_are_found_in_ids(sequence):
    ids, prefix, groups = sequence
    layout = GroupLayout.from_ids(ids, prefix, VISUAL)
    assert list(zip(layout.starts_G.tolist(), layout.visuals_G.tolist(), layout.ends.tolist())) == groups
    assert layout.timestamp_mask().tolist() == [t >= prefix and ids[t] != VISUAL for t in range(len(ids))]


@given(sequences(), st.integers(1, 5), st.integers(0, 4), st.data())
def test_runs_and_timestamps_read_what_the_rule_allows(sequence, block, previous, data):
    """However the groups are cut into tiles: every row reads exactly the keys that the rule lets it see."""
    ids, prefix, groups = sequence
    want = rule(ids, prefix, len(ids), groups, block, previous)
    book = TilePlanner(prefix, VISUAL, block_size=block, previous_blocks=previous)
    seen = np.zeros_like(want)
    global_tokens: list[int] = []
    reachable, done = 0, 0
    while done < len(groups):
        count = data.draw(st.integers(1, len(groups) - done))
        plan = book.add(ids[groups[done][0] : groups[done + count - 1][2]])
        assert plan.begin == (0 if done == 0 else groups[done][0])
        done += count
        global_tokens += (plan.global_tokens + plan.begin).tolist()
        assert [row for run in plan.runs for row in range(run.begin, run.end)] == list(range(plan.begin, plan.end))
        for run in plan.runs:
            assert run.window == 0 or run.window >= reachable
            keys = [*global_tokens[: run.global_tokens], *range(run.window, run.end)]
            for row in range(run.begin, run.end):
                seen[row, keys[: len(keys) - (run.end - row) + 1]] = True
        for begin, end in plan.timestamps:
            for row in range(begin, end):
                seen[row, : row + 1] = True
        reachable = plan.keep_from
    assert (seen == want).all()


def test_a_sequence_that_is_no_video_is_refused():
    for ids in ([VISUAL, VISUAL], [2, VISUAL, 2]):
        with pytest.raises(ValueError, match="begins with a timestamp and ends with a visual token"):
            GroupLayout.from_ids(ids, 0, VISUAL)
    assert len(GroupLayout.from_ids([1, 1], 2, VISUAL)) == 0
