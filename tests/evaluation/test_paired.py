"""Paired tests by hand and against a plain count of all splits."""

from __future__ import annotations

import itertools

import pytest

from videoxl.evaluation.paired import compare, mcnemar


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (5, 0), (3, 7), (6, 6), (1, 11)])
def test_mcnemar_counts_splits_at_least_as_uneven(first, second):
    total = first + second
    splits = [sum(one) for one in itertools.product((0, 1), repeat=total)]
    extreme = abs(first - second)
    expected = sum(abs(total - 2 * heads) >= extreme for heads in splits) / len(splits)
    assert mcnemar(first, second) == pytest.approx(expected)


def test_mcnemar_of_many_questions():
    assert mcnemar(480, 560) == pytest.approx(0.0143, abs=2e-4)  # 1,040 questions, the normal approximation: 0.0143
    assert mcnemar(499, 500) == mcnemar(500, 499) == pytest.approx(1.0)
    assert mcnemar(500, 501) == pytest.approx(1.0)
    assert 0 < mcnemar(0, 1020) < 1e-300
    with pytest.raises(ValueError, match="0 or more"):
        mcnemar(-1, 2)


def test_two_runs_by_hand():
    first = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0, "only": 1.0}
    second = {"d": 1.0, "c": 1.0, "b": 1.0, "a": 1.0}
    found = compare(first, second, {key: key for key in first})
    assert (found.questions, found.first, found.second) == (4, 0.5, 1.0)
    assert (found.only_first, found.only_second, found.unshared) == (0, 2, 1)
    assert found.p_value == 0.5
    low, high = found.interval
    assert low <= 0.5 <= high
    with pytest.raises(ValueError, match="no question in common"):
        compare({"a": 1.0}, {"b": 1.0}, {})


def test_a_comparison_resamples_whole_videos():
    first = {str(n): float(n % 20 < 10) for n in range(100)}
    second = {str(n): float(n % 20 < 10 or n < 10) for n in range(100)}
    alone = compare(first, second, {str(n): n for n in range(100)})
    together = compare(first, second, {str(n): n // 10 for n in range(100)})
    assert together.interval[1] - together.interval[0] >= alone.interval[1] - alone.interval[0]
