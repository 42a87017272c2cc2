"""Where nobody speaks, and word times that leave it out.

A speech model says in which order words come and about when; it gives the pauses between them to one of their
neighbours. Loudness and voice activity say better when a word begins and ends.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from videoxl.cues import SpokenWord
from videoxl.video.sound import SAMPLE_RATE, Samples

STEP = SAMPLE_RATE // 100
"""Samples over which loudness is measured: 10 ms."""
NEARBY = 200
"""Steps to either side whose loudness counts as that of the speech around."""
QUIET = 0.04
"""A step is quiet when it is at most so loud as the speech around it, as a ratio of amplitudes (-28 dB)."""
SHORTEST_PAUSE = 0.1
"""Seconds. Within a word there are closures nearly as long."""
SHORTEST_WORD = 0.05
"""Seconds."""
SPEECH = {
    "threshold": 0.5,
    "min_speech_duration_ms": 250,
    "min_silence_duration_ms": 2000,
    "speech_pad_ms": 400,
}
"""What voice activity detection takes for speech."""
BETWEEN_WORDS = {"threshold": 0.5, "min_speech_duration_ms": 0, "min_silence_duration_ms": 100, "speech_pad_ms": 0}
"""The same, for pauses between words."""

Spans = list[tuple[int, int]]
"""(begin, end) in samples, in order, none overlapping another."""


def spoken(samples_N: Samples, options: dict[str, float] = SPEECH) -> Spans:
    """Where somebody speaks, as voice activity detection finds it."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    return [(one["start"], one["end"]) for one in get_speech_timestamps(samples_N, VadOptions(**options))]


def pauses(samples_N: Samples) -> Spans:
    """Where nobody speaks, as voice activity detection finds it."""
    edges = [0, *(edge for span in spoken(samples_N, BETWEEN_WORDS) for edge in span), len(samples_N)]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2]) if b > a]


def quiet(samples_N: Samples) -> Spans:
    """Where it is much quieter than around, for at least :data:`SHORTEST_PAUSE`."""
    steps = len(samples_N) // STEP
    if not steps:
        return []
    loudness_S = np.sqrt(np.square(samples_N[: steps * STEP]).reshape(steps, STEP).mean(1))
    is_quiet_S = loudness_S <= QUIET * _loudest_nearby(loudness_S)
    edges = np.flatnonzero(np.diff(is_quiet_S, prepend=False, append=False))
    least = SHORTEST_PAUSE * SAMPLE_RATE / STEP
    return [(int(a) * STEP, int(b) * STEP) for a, b in zip(edges[::2], edges[1::2]) if b - a >= least]


def _loudest_nearby(loudness_S: Samples) -> Samples:
    """The maximum over :data:`NEARBY` steps to either side."""
    blocks = -(-len(loudness_S) // NEARBY)
    padded_S = np.pad(loudness_S, (0, blocks * NEARBY - len(loudness_S)))
    highest_B = np.pad(padded_S.reshape(blocks, NEARBY).max(1), 1)
    around_B = np.maximum(np.maximum(highest_B[:-2], highest_B[1:-1]), highest_B[2:])
    around_S: Samples = np.repeat(around_B, NEARBY)[: len(loudness_S)]
    return around_S


def union(one: Spans, other: Spans) -> Spans:
    """What lies in one of them."""
    joined: Spans = []
    for begin, end in sorted([*one, *other]):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def without_pauses(words: Sequence[SpokenWord], silent: Spans, begin_s: float) -> list[SpokenWord]:
    """Words without the pauses that their times hold: of each, the longest stretch without one.

    ``silent``: where nobody speaks; ``begin_s``: the second at which these samples begin.
    """
    begins = [begin_s + begin / SAMPLE_RATE for begin, _ in silent]
    ends = [begin_s + end / SAMPLE_RATE for _, end in silent]
    return [_shortened(word, begins, ends) for word in words]


def _shortened(word: SpokenWord, begins: Sequence[float], ends: Sequence[float]) -> SpokenWord:
    first, last = bisect_right(ends, word.start_s), bisect_left(begins, word.end_s)
    edges = [word.start_s]
    for begin, end in zip(begins[first:last], ends[first:last]):
        edges += [max(begin, word.start_s), min(end, word.end_s)]
    edges.append(word.end_s)
    start_s, end_s = max(zip(edges[::2], edges[1::2]), key=lambda span: span[1] - span[0])
    if end_s - start_s < SHORTEST_WORD:
        return word
    return replace(word, start_s=round(start_s, 3), end_s=round(end_s, 3))
