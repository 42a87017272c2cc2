"""Numbers made of outcomes: accuracy, its interval, averages over categories, and what guessing would give."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 10_000
"""Resamples of a bootstrap."""
CHUNK = 500
"""Resamples held at once."""


def accuracy(correct: Iterable[bool]) -> float | None:
    """The share of true values, 0 to 1; None when there are none, for then there is no accuracy."""
    outcomes = [bool(one) for one in correct]
    return sum(outcomes) / len(outcomes) if outcomes else None


def micro_macro(records: Iterable[Mapping[str, Any]], by: str, *, correct: str = "correct") -> dict[str, Any]:
    """Both averages, which published numbers mix up, and what they are made of.

    ``micro``: every sample counts the same. ``macro``: every category does; the mean of the categories' accuracies.

    Args:
        records: samples with the fields ``by`` (the category) and ``correct`` (true or false).

    Returns:
        ``{"micro": 0.5, "macro": 0.75, "samples": 4, "by": {"count": {"accuracy": 1.0, "samples": 1}, ...}}``; None in
        the place of averages over nothing.
    """
    categories: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        categories[str(record[by])].append(bool(record[correct]))
    of_each = {name: {"accuracy": accuracy(c), "samples": len(c)} for name, c in sorted(categories.items())}
    shares = [sum(c) / len(c) for c in categories.values()]
    return {
        "micro": accuracy(one for c in categories.values() for one in c),
        "macro": math.fsum(shares) / len(shares) if shares else None,
        "samples": sum(map(len, categories.values())),
        "by": of_each,
    }


def bootstrap_interval(
    correct: Sequence[float], *, seed: int = 0, level: float = 0.95, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float] | None:
    """Percentile interval of the mean by resampling, 10,000 times (Efron 1979). None without samples.

    Args:
        correct: outcomes, or any scores such as overlaps.
        seed: the same seed gives the same interval.
        level: the share of resamples within, above 0 and below 1.
        clusters: per sample, the video it is about: whole videos are then drawn, since questions about one video are
            not independent and an interval that took them so would be too narrow.

    All outcomes the same give an interval of no width: use :func:`wilson_interval` for few samples.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    if clusters is not None and len(clusters) != len(correct):
        raise ValueError(f"clusters must name the video of each of the {len(correct)} samples, got {len(clusters)}")
    if not len(correct):
        return None
    sums, counts = _per_cluster(correct, range(len(correct)) if clusters is None else clusters)
    source = np.random.default_rng(seed)
    means = []
    for begin in range(0, DRAWS, CHUNK):
        drawn = source.integers(0, len(sums), (min(CHUNK, DRAWS - begin), len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _per_cluster(correct: Sequence[float], clusters: Iterable[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the outcomes of each."""
    sums: dict[Hashable, float] = defaultdict(float)
    counts: Counter[Hashable] = Counter()
    for one, cluster in zip(correct, clusters):
        sums[cluster] += float(one)
        counts[cluster] += 1
    return np.array(list(sums.values())), np.array([counts[cluster] for cluster in sums])


def wilson_interval(right: int, samples: int, *, z: float = 1.96) -> tuple[float, float] | None:
    """Interval of a share (Wilson 1927), good for few samples and shares near 0 and 1. ``z`` = 1.96 is 95 %."""
    if not 0 <= right <= samples:
        raise ValueError(f"right must be between 0 and samples={samples}, got {right}")
    if not samples:
        return None
    share, spread = right / samples, z * z / samples
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / samples + spread / (4 * samples)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def choice_chance(options: int) -> float:
    """Accuracy of guessing among ``options`` offered answers, one of which is right."""
    if options < 1:
        raise ValueError(f"a choice has at least one option, got {options}")
    return 1 / options


def majority_chance(answers: Iterable[Hashable]) -> float | None:
    """Accuracy of always giving the commonest of the right answers: the floor for open questions. None for none."""
    counts = Counter(answers)
    return counts.most_common(1)[0][1] / counts.total() if counts else None


def mean_chance(chances: Iterable[float]) -> float | None:
    """Chance level of questions that differ in theirs. None for none."""
    values = list(chances)
    return math.fsum(values) / len(values) if values else None
