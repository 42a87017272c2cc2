"""Accuracy, its interval, averages over categories, and the accuracy of guessing."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np

RESAMPLES = 10_000
"""Resamples of a bootstrap."""
RESAMPLES_AT_ONCE = 500
"""Resamples held at once."""


def accuracy(correct: Iterable[bool]) -> float | None:
    """Return the share of true values, 0 to 1; None without values."""
    outcomes = [bool(one) for one in correct]
    return sum(outcomes) / len(outcomes) if outcomes else None


class CategoryScore(TypedDict):
    """Accuracy of one category, 0 to 1."""

    accuracy: float | None
    samples: int


class Averages(TypedDict):
    """Both averages of a benchmark, and what they are made of."""

    micro: float | None
    macro: float | None
    samples: int
    by: dict[str, CategoryScore]


def micro_macro(records: Iterable[Mapping[str, object]], by: str, *, correct: str = "correct") -> Averages:
    """Return both averages, which published numbers often do not tell apart.

    ``micro``: every sample counts the same. ``macro``: every category counts the same.

    Args:
        records: samples with the fields ``by`` (the category) and ``correct`` (true or false).

    Returns:
        ``{"micro": 0.5, "macro": 0.75, "samples": 4, "by": {"count": {"accuracy": 1.0, "samples": 1}, ...}}``; An
        average over nothing is None.
    """
    categories: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        categories[str(record[by])].append(bool(record[correct]))
    scores: dict[str, CategoryScore] = {
        name: {"accuracy": accuracy(c), "samples": len(c)} for name, c in sorted(categories.items())
    }
    shares = [sum(c) / len(c) for c in categories.values()]
    return {
        "micro": accuracy(one for c in categories.values() for one in c),
        "macro": math.fsum(shares) / len(shares) if shares else None,
        "samples": sum(map(len, categories.values())),
        "by": scores,
    }


def bootstrap_interval(
    correct: Sequence[float], *, seed: int = 0, level: float = 0.95, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float] | None:
    """Return the percentile interval of the mean by resampling, 10,000 times (Efron 1979). None without samples.

    Args:
        correct: outcomes, or any scores such as overlaps.
        seed: the same seed gives the same interval.
        level: the share of resamples within, above 0 and below 1.
        clusters: per sample, the video it is about. Whole videos are then drawn: questions about one video are not
            independent, and an interval that took them to be would be too narrow.

    Equal outcomes give an interval of no width: :func:`share_interval` is meant for right and wrong answers.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    if clusters is not None and len(clusters) != len(correct):
        raise ValueError(f"clusters must name the video of each of the {len(correct)} samples, got {len(clusters)}")
    if not len(correct):
        return None
    sums, counts = _per_cluster(correct, range(len(correct)) if clusters is None else clusters)
    generator = np.random.default_rng(seed)
    means = []
    for begin in range(0, RESAMPLES, RESAMPLES_AT_ONCE):
        drawn = generator.integers(0, len(sums), (min(RESAMPLES_AT_ONCE, RESAMPLES - begin), len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _per_cluster(correct: Sequence[float], clusters: Iterable[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of outcomes of each cluster."""
    sums: dict[Hashable, float] = defaultdict(float)
    counts: Counter[Hashable] = Counter()
    for one, cluster in zip(correct, clusters):
        sums[cluster] += float(one)
        counts[cluster] += 1
    return np.array(list(sums.values())), np.array([counts[cluster] for cluster in sums])


def wilson_interval(right: int, samples: int, *, z: float = 1.96) -> tuple[float, float] | None:
    """Return the interval of a share (Wilson 1927), good for few samples and shares near 0 and 1. 1.96 is 95 %."""
    if not 0 <= right <= samples:
        raise ValueError(f"right must be between 0 and samples={samples}, got {right}")
    if not samples:
        return None
    share, spread = right / samples, z * z / samples
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / samples + spread / (4 * samples)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def share_interval(
    correct: Sequence[float], *, clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95 % interval of a share of right answers; None without samples.

    It is :func:`bootstrap_interval`. Where all answers are right, or all wrong, resampling would give an interval of no
    width, as if nothing were unknown: then it is :func:`wilson_interval`, which takes each cluster for one sample.
    """
    if len(correct) and len(set(map(float, correct))) == 1 and float(correct[0]) in (0.0, 1.0):
        independent = len(correct) if clusters is None else len(set(clusters))
        return wilson_interval(independent * int(correct[0]), independent)
    return bootstrap_interval(correct, seed=seed, clusters=clusters)


def choice_chance(options: int) -> float:
    """Return the accuracy of guessing among ``options`` offered answers, one of which is right."""
    if options < 1:
        raise ValueError(f"a choice has at least one option, got {options}")
    return 1 / options


def mean_chance(chances: Iterable[float]) -> float | None:
    """Return the chance level of questions whose chances differ; None without questions."""
    values = list(chances)
    return math.fsum(values) / len(values) if values else None
