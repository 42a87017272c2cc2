"""Compare two runs on the same questions: what one answers and the other does not says more than two intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from videoxl.evaluation.metrics import bootstrap_interval


@dataclass(frozen=True)
class Comparison:
    """Two runs on the questions that both have."""

    questions: int
    first: float
    """Accuracy of the first run on them, 0 to 1."""
    second: float
    only_first: int
    """Questions that only the first run answers rightly."""
    only_second: int
    p_value: float
    """Of :func:`mcnemar`: how likely so uneven a split is if both are equally good."""
    interval: tuple[float, float]
    """95 % of ``second - first``, by resampling whole videos."""
    unshared: int
    """Questions that only one of the runs has; they are left out."""


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided exact p-value of McNemar's test, 0 to 1.

    Of the questions that exactly one run answers rightly, each is that of the first with probability one half. The
    p-value is the probability of a split at least as uneven. It is 1.0 without such questions.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts are 0 or more, got {only_first} and {only_second}")
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, count) for count in range(fewer + 1))
    p_value: float = 2 * tail / 2**total  # of whole numbers of any size, so that nothing overflows
    return min(1.0, p_value)


def compare(
    first: Mapping[str, float], second: Mapping[str, float], videos: Mapping[str, Hashable], *, seed: int = 0
) -> Comparison:
    """Compare outcomes, 0 to 1, by the keys of questions.

    ``videos``: per key the video that the question is about. An outcome counts as right for McNemar's test if it is at
    least one half. Raises ``ValueError`` if no question is in both.
    """
    shared = [key for key in first if key in second]
    if not shared:
        raise ValueError("the runs have no question in common: compare runs of one benchmark")
    differences = [float(second[key]) - float(first[key]) for key in shared]
    right = [(first[key] >= 0.5, second[key] >= 0.5) for key in shared]
    only_first = sum(a and not b for a, b in right)
    only_second = sum(b and not a for a, b in right)
    interval = bootstrap_interval(differences, seed=seed, clusters=[videos.get(key, key) for key in shared])
    assert interval is not None  # there are samples
    return Comparison(
        questions=len(shared),
        first=_mean([first[key] for key in shared]),
        second=_mean([second[key] for key in shared]),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
        interval=interval,
        unshared=len(first.keys() ^ second.keys()),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
