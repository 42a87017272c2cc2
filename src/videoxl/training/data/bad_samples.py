"""Counts samples that failed, lists them in a file, and ends a run when there are too many."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from videoxl.errors import TrainingDataError
from videoxl.training.step_lines import append_line, keep_until

LEAST = 100
"""The share is judged as if at least this many had been read, so that one among the first does not end a run."""
NAMED = 3
"""How many bad samples an error names."""


class BadSampleCounts(TypedDict, total=False):
    """The counts that are kept with a checkpoint."""

    read: int
    bad: int
    empty_batches: int
    first: list[str]


class BadSampleLog:
    """Counts the bad samples of one process, and appends a line for each to a file that all processes share."""

    def __init__(self, path: Path, *, limit: float, rank: int = 0) -> None:
        """``limit``: the largest share of bad samples among those read."""
        self.path, self.limit, self.rank = path, limit, rank
        self.read = self.bad = self.empty_batches = 0
        self.first: list[str] = []

    def count(self, read: int, bad: Iterable[tuple[str, str]], *, step: int) -> None:
        """Add a batch: how many samples were asked for, and those that failed as ``(id, reason)``.

        Raises :class:`TrainingDataError` above the limit, :class:`TrainingError` where the file cannot be written.
        """
        self.read += read
        for name, reason in bad:
            self.bad += 1
            self.first = [*self.first, f"{name} ({reason})"][:NAMED]
            append_line(self.path, {"step": step, "id": name, "reason": reason, "rank": self.rank})
        if self.bad > self.limit * max(self.read, LEAST):
            raise TrainingDataError(
                f"{self.bad} of the first {self.read} samples failed, max_bad_fraction={self.limit:g} allows fewer: "
                f"{'; '.join(self.first)}, ... All are listed in {self.path}; mend or remove them, or raise "
                "data.max_bad_fraction"
            )

    def state(self) -> BadSampleCounts:
        """Counts, to be kept with a checkpoint."""
        return {"read": self.read, "bad": self.bad, "empty_batches": self.empty_batches, "first": self.first}

    def restore(self, state: BadSampleCounts, *, step: int) -> None:
        """Counts of a checkpoint after ``step``; the file loses the lines written since, which will come again."""
        self.read, self.bad = state.get("read", 0), state.get("bad", 0)
        self.empty_batches = state.get("empty_batches", 0)
        self.first = list(state.get("first", []))
        if self.rank or not self.path.is_file():
            return
        keep_until(step, self.path)
