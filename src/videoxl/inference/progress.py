"""Progress on stderr, or wherever the caller wants it."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(phase, done, total)``: ``decode``, ``vision`` and ``prefill`` count frames, ``generate`` tokens;
total is None if unknown."""

UNITS = {"generate": "tokens"}


def as_progress(progress: bool | Progress) -> Progress:
    """A callable from what ``progress=...`` accepts: a line on stderr, the caller's own, or silence."""
    if callable(progress):
        return progress
    return _Line() if progress else lambda phase, done, total: None


class _Line:
    """One line on stderr that is rewritten in place; on a pipe, a line per tenth of the slowest phase."""

    def __init__(self) -> None:
        self.shown = ""

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        of, share = (f" of {total:,}", f" ({100 * done // total} %)") if total else ("", "")
        line = f"{phase}: {done:,}{of} {UNITS.get(phase, 'frames')}{share}"
        last = total is not None and done >= total and phase in ("prefill", "generate")
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
            return
        tenth = f"{phase} {10 * done // total if total else done}"
        if phase == "prefill" and tenth != self.shown:
            self.shown = tenth
            print(line, file=sys.stderr, flush=True)
