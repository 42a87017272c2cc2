"""Report progress on stderr, or to a function of the caller."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.control import Control
from rich.progress_bar import ProgressBar
from rich.segment import ControlType

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(phase, done, total)``: ``decode``, ``vision`` and ``prefill`` count frames, ``generate`` tokens;
total is None if unknown."""

UNITS = {"generate": "tokens"}
CLEAR_LINE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))
BAR_WIDTH = 30


def as_progress(progress: bool | Progress) -> Progress:
    """A callable from what ``progress=...`` accepts: a bar on stderr, the caller's own, or silence."""
    if callable(progress):
        return progress
    return _Bar() if progress else lambda phase, done, total: None


class _Bar:
    """A bar on stderr, drawn over itself; where stderr is no terminal, a line per tenth of the slowest phase.

    It keeps no thread and hides no cursor, so an error while it is shown leaves nothing behind.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._shown = ""

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        of, share = (f" of {total:,}", f" ({100 * done // total} %)") if total else ("", "")
        count = f"{done:,}{of} {UNITS.get(phase, 'frames')}{share}"
        if self._console.is_terminal:
            last = total is not None and done >= total and phase in ("prefill", "generate")
            self._console.control(CLEAR_LINE)
            self._console.print(f"{phase:<8} ", end="")
            self._console.print(ProgressBar(total=total, completed=done, width=BAR_WIDTH), end="")
            self._console.print(f" {count}", end="\n" if last else "", soft_wrap=True)
            return
        tenth = f"{phase} {10 * done // total if total else done}"
        if phase == "prefill" and tenth != self._shown:
            self._shown = tenth
            self._console.print(f"{phase}: {count}", soft_wrap=True)
