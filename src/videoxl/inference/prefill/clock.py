"""Seconds per phase of a reading, without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


class PhaseClock:
    """Adds up seconds per phase.

    On a GPU, work is only queued when the host goes on. So events are queued with it, and read once at the end: the
    seconds of a phase are the device's own. Phases then overlap, and their sum is not the time on the wall.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done, or queued, inside."""
        if self.device.type != "cuda":
            with self._host(name):
                yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(torch.cuda.current_stream(self.device))
        try:
            yield
        finally:
            end.record(torch.cuda.current_stream(self.device))
            self._events.append((name, begin, end))

    def waiting(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield the same items; the phase is what the host waits for them."""
        iterator = iter(items)
        while True:
            with self._host(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def seconds(self) -> dict[str, float]:
        """Seconds per phase so far, to the microsecond. Waits for the device."""
        if self._events:
            self._events[-1][2].synchronize()
        for name, begin, end in self._events:
            self._add(name, begin.elapsed_time(end) / 1000)
        self._events.clear()
        return {name: round(value, 6) for name, value in self._seconds.items()}

    @contextmanager
    def _host(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - begin)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
