"""Which tokens go through Video-XL together, and where its beacons stand: bookkeeping, no tensors (SPEC 2.3, 2.6).

A sequence is prefix, visual tokens, text. The visual tokens are read in windows; in each, one beacon follows every
``ratio`` tokens, and only the beacons' keys and values are kept. :class:`WindowLoop` says what each forward holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Mix = Literal["random", "random-once", "sequence", "adaptive"]
Kind = Literal["prefix", "window", "text"]


@dataclass(frozen=True)
class WindowStep:
    """One forward: raw tokens ``[begin, end)`` of the sequence with beacons among them."""

    kind: Kind
    begin: int
    end: int
    beacon_slots: tuple[int, ...]
    """Indices of the beacons among the ``end - begin + beacons`` tokens of the step."""
    past: int
    """Tokens in the cache before the step; its positions go on from there."""
    full: bool
    """Of what the step added, and of raw tokens kept before, only the beacons stay in the cache."""
    kept: tuple[int, int, int]
    """Tokens in the cache after it: prefix, beacons, raw."""
    ratio: int | None
    """The ratio in force at a window."""

    @property
    def beacons(self) -> int:
        return len(self.beacon_slots)

    @property
    def tokens(self) -> int:
        return self.end - self.begin + self.beacons


def beacon_slots(raw: int, ratio: int, remainder: int) -> tuple[int, ...]:
    """Slots of the beacons among ``raw`` tokens: one after every ``ratio`` tokens, counted on from ``remainder``."""
    count = (raw + remainder) // ratio
    return tuple(range(ratio - remainder, ratio - remainder + count * (ratio + 1), ratio + 1))


class RatioChooser:
    """Chooses the ratio of each window (SPEC 2.6). One per video: nothing carries over to the next.

    Raises ``ValueError`` at :meth:`choose` when no ratio divides a window.
    """

    def __init__(
        self,
        ratios: Sequence[int],
        mix: Mix | None = None,
        *,
        seed: int | np.random.Generator = 42,
        headroom: int = 1024,
        max_positions: int = 0,
    ) -> None:
        """``headroom`` and ``max_positions`` serve ``adaptive``: the ratio is the one whose compressed sequence, with
        ``headroom`` more tokens, just fits ``max_positions``."""
        self.ratios, self.mix = tuple(ratios), mix
        self.headroom, self.max_positions = headroom, max_positions
        self.random = np.random.default_rng(seed)
        self._fixed: int | None = None
        self._cycle: tuple[int, ...] = ()
        self._drawn = 0

    def choose(self, window: int, length: int, full_window: int) -> int:
        """The ratio for a window of ``window`` raw tokens; ``length`` is that of the whole sequence."""
        if len(self.ratios) == 1:
            return self.ratios[0]
        fitting = tuple(r for r in self.ratios if r <= window and window % r == 0)
        if not fitting:
            raise ValueError(
                f"none of the ratios {self.ratios} divides a window of {window} visual tokens; give a single ratio, or "
                "ratios that divide it"
            )
        if self.mix == "random":
            return int(self.random.choice(fitting))
        if self.mix == "sequence":
            self._cycle = self._cycle or fitting
            self._drawn += 1
            return self._cycle[(self._drawn - 1) % len(self._cycle)]
        if self._fixed is None:
            adaptive = self.mix == "adaptive"
            self._fixed = self._adapted(fitting, length, full_window) if adaptive else int(self.random.choice(fitting))
        return self._fixed

    def _adapted(self, ratios: Sequence[int], length: int, window: int) -> int:
        """The smallest reach that suffices; the largest ratio if none does."""
        reach = {r: (self.max_positions - window) * r + window for r in ratios}
        enough = [r for r in ratios if reach[r] >= length + self.headroom]
        return min(enough, key=lambda r: reach[r]) if enough else max(ratios)


class WindowLoop:
    """The state machine of the released memory, for one sequence (SPEC 2.3).

    ``skip_first`` is the length of the prefix. ``skip_last``, the end of the visual tokens, may be set late, once it
    is known: windows before it come out the same. ``total`` is the length of the sequence, for the adaptive mix, where
    it is not all there at the first step.
    """

    def __init__(
        self,
        window: int,
        ratios: RatioChooser,
        *,
        skip_first: int | None,
        skip_last: int | None = None,
        total: int | None = None,
        training: bool = False,
        accumulate: bool = True,
    ) -> None:
        self.window, self.ratios = window, ratios
        self.skip_first, self.skip_last = skip_first, skip_last
        self.total = total
        self.training, self.accumulate = training, accumulate
        self.start = self.end = self.remainder = self.steps = 0
        self.full = True
        self.ratio: int | None = None
        self.prefix = self.beacons = self.raw = 0

    @property
    def cached(self) -> int:
        """Tokens in the cache."""
        return self.prefix + self.beacons + self.raw

    def windows_ready(self, length: int) -> bool:
        """Whether the next window is whole within a sequence that has ``length`` tokens so far."""
        return self.start + self.window <= length

    def next(self, length: int) -> WindowStep:
        """The next step of a sequence of ``length`` tokens.

        Raises ``ValueError`` when all tokens have been through, and when all there is before ``skip_last`` is part of
        a window: how many beacons it gets shows once it is whole.
        """
        if self.end >= length:
            raise ValueError(f"all {length} tokens have been through")
        effective = self.window
        if self.skip_last is not None and self.start < self.skip_last < self.start + self.window:
            effective = self.skip_last - self.start
        stop = min(self.start + effective, length)
        full = self.start + effective <= length
        past, begin, ratio = self.cached, self.end, None
        slots: tuple[int, ...] = ()
        kind: Kind = "text"
        if self.training and stop == length:
            full = False
        elif self.steps == 0 and self.skip_first is not None:
            stop = self.start = self.skip_first
            full, kind = True, "prefix"
        elif self.skip_last is not None and self.start >= self.skip_last:
            stop = self.start = min(self.start + self.window, length)
            full = False
        else:
            kind = "window"
            if not full:
                raise ValueError(
                    f"a window of {effective} tokens has only {length - self.start} so far: wait for the rest, or set "
                    "skip_last where the visual tokens end"
                )
            if self.full:
                self.ratio = self.ratios.choose(effective, self.total or length, self.window)
            assert self.ratio is not None
            ratio = self.ratio
            slots = beacon_slots(stop - begin, ratio, self.remainder)
            self.remainder = (stop - begin + self.remainder) % ratio
            self.start += effective
        self._keep(stop - begin, len(slots), full)
        self.end, self.full = stop, full
        self.steps += 1
        return WindowStep(kind, begin, stop, slots, past, full, (self.prefix, self.beacons, self.raw), ratio)

    def _keep(self, raw: int, beacons: int, full: bool) -> None:
        if self.steps == 0 and self.skip_first is not None:
            self.prefix = raw + beacons
        elif full:
            self.beacons = beacons + (self.beacons if self.accumulate else 0)
            self.raw = 0
        else:
            self.raw += raw + beacons
