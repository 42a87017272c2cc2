from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoxl.evaluation.metrics import (
    accuracy,
    bootstrap_interval,
    choice_chance,
    mean_chance,
    micro_macro,
    share_interval,
    wilson_interval,
)


def test_accuracy_of_nothing_is_not_a_number_that_could_be_averaged():
    assert accuracy([]) is None
    assert accuracy([True, False, False, True]) == 0.5


def test_micro_and_macro_by_hand():
    records = [{"task": "count", "correct": c} for c in (True, True, True, False)] + [
        {"task": "order", "correct": False}
    ]
    found = micro_macro(records, "task")
    assert found == {
        "micro": 0.6,
        "macro": 0.375,
        "samples": 5,
        "by": {"count": {"accuracy": 0.75, "samples": 4}, "order": {"accuracy": 0.0, "samples": 1}},
    }
    assert micro_macro([], "task") == {"micro": None, "macro": None, "samples": 0, "by": {}}


def test_bootstrap_interval_is_about_that_of_the_normal_distribution():
    low, high = bootstrap_interval([1] * 200 + [0] * 200, seed=1)
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.004)
    assert bootstrap_interval([1] * 200 + [0] * 200, seed=1) == (low, high)
    assert bootstrap_interval([1, 0, 1], level=0.5) != bootstrap_interval([1, 0, 1])
    assert bootstrap_interval([]) is None


def test_questions_about_one_video_count_together():
    correct = [1] * 50 + [0] * 50
    alone = bootstrap_interval(correct)
    together = bootstrap_interval(correct, clusters=[n // 10 for n in range(100)])
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])
    # clusters of one each are no clusters
    assert bootstrap_interval(correct, clusters=list(range(100))) == alone
    with pytest.raises(ValueError, match="each of the 100"):
        bootstrap_interval(correct, clusters=[1])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(correct, level=1.0)


def test_wilson_interval_by_hand():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == 1.0
    assert wilson_interval(10, 10)[0] == pytest.approx(0.7225, abs=1e-4)
    assert wilson_interval(0, 0) is None
    with pytest.raises(ValueError, match="between 0 and"):
        wilson_interval(3, 2)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share(case):
    right, samples = case
    low, high = wilson_interval(right, samples)
    assert 0 <= low <= right / samples + 1e-12
    assert right / samples <= high + 1e-12
    assert high <= 1


def test_chance_levels():
    assert choice_chance(4) == 0.25
    assert mean_chance([0.25, 0.75]) == 0.5
    assert mean_chance([]) is None
    with pytest.raises(ValueError, match="at least one"):
        choice_chance(0)


def test_equal_outcomes_leave_something_unknown():
    assert share_interval([True] * 22) == wilson_interval(22, 22)
    assert share_interval([0.0] * 22) == wilson_interval(0, 22)
    videos = [n // 11 for n in range(22)]  # eleven questions about each of two videos say little about a third
    assert share_interval([True] * 22, clusters=videos) == wilson_interval(2, 2)
    mixed = [True] * 21 + [False]
    assert share_interval(mixed, clusters=videos) == bootstrap_interval(mixed, clusters=videos)
    assert share_interval([0.5] * 4) == (0.5, 0.5)  # scores that are no outcomes
    assert share_interval([]) is None
