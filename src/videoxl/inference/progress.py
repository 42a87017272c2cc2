"""Progress on stderr, or wherever the caller wants it."""

from __future__ import annotations

import sys
from typing import Any

from videoxl.inference.prefill import Progress


def as_progress(progress: bool | Progress) -> Progress:
    """A callable from what ``encode(progress=...)`` accepts: a bar on stderr, the caller's own, or silence."""
    if callable(progress):
        return progress
    return _Bar() if progress else lambda phase, done, total: None


class _Bar:
    """One line on stderr that is rewritten in place; on a pipe, one line per tenth."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        share = f" {100 * done // total:3d} %" if total else ""
        line = f"{phase}: {done:,}{f' of {total:,}' if total else ''} frames{share}"
        finished = total is not None and done >= total and phase == "prefill"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if finished else "", file=sys.stderr, flush=True)
        elif phase == "prefill" and self._tenth(done, total) != self.last:
            self.last = self._tenth(done, total)
            print(line, file=sys.stderr, flush=True)

    @staticmethod
    def _tenth(done: int, total: int | None) -> Any:
        return str(10 * done // total) if total else str(done)
