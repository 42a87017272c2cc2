"""Report progress on stderr, in a notebook, or to a function of the caller."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.control import Control
from rich.progress_bar import ProgressBar
from rich.segment import ControlType

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(phase, done, total)``: ``decode``, ``vision``, ``prefill``, ``text`` and ``cuts`` count frames,
``generate`` tokens, ``videos`` videos, ``download`` bytes, ``speech`` seconds of sound; total is None if unknown."""

UNITS = {"generate": "tokens", "videos": "videos", "download": "MB", "speech": "s of sound"}
LINE_ENDS = ("prefill", "generate", "videos", "download", "speech", "text", "cuts")
"""Phases whose line stays when they are done: the last of several that belong together."""
SLOWEST = ("prefill", "videos", "download", "speech", "text", "cuts")
"""Phases that are told where stderr is no terminal."""
CLEAR_LINE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))
BAR_WIDTH = 30
SETTLED = 0.5
"""Seconds after which a rate is worth telling."""


def as_progress(progress: bool | Progress) -> Progress:
    """A callable from what ``progress=...`` accepts: a bar, the caller's own, or silence.

    The bar is on stderr; in a notebook it is tqdm's, where tqdm is installed.
    """
    if callable(progress):
        return progress
    if not progress:
        return lambda phase, done, total: None
    tqdm = _notebook_bar()
    return _Bar() if tqdm is None else _NotebookBars(tqdm)


class Rates:
    """How fast each phase goes, and how long it will take, from what was told since it began."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, int, int]] = {}

    def tell(self, phase: str, done: int, total: int | None) -> str:
        """``, 12.5/s, 1:40 left``; nothing while that is not known. What was done before the first call does not count.

        A phase that counts down, or ends, begins anew.
        """
        now = time.monotonic()
        began, first, latest = self._began.get(phase, (now, done, done))
        if done < latest:
            began, first = now, done
        self._began[phase] = (began, first, done)
        rate = (done - first) / (now - began) if now - began >= SETTLED else 0.0
        if not rate:
            return ""
        left = f", {_clock((total - done) / rate)} left" if total is not None and done < total else ""
        return f", {_number(rate / _scale(phase))}/s{left}"


def count_of(phase: str, done: int, total: int | None) -> str:
    """``1,000 of 2,000 frames (50 %)``."""
    of, share = "", ""
    if total:
        of, share = f" of {total // _scale(phase):,}", f" ({100 * done // total} %)"
    return f"{done // _scale(phase):,}{of} {UNITS.get(phase, 'frames')}{share}"


class _Bar:
    """A bar on stderr, drawn over itself; where stderr is no terminal, a line per tenth of the slowest phase.

    It keeps no thread and hides no cursor, so an error while it is shown leaves nothing behind.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._rates = Rates()
        self._shown = ""

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        text = count_of(phase, done, total) + self._rates.tell(phase, done, total)
        if self._console.is_terminal:
            last = total is not None and done >= total and phase in LINE_ENDS
            width = min(BAR_WIDTH, self._console.width - len(text) - 12)
            self._console.control(CLEAR_LINE)
            self._console.print(f"{phase:<8} ", end="")
            if width >= 5:  # else the line would break, and could not be drawn over
                self._console.print(ProgressBar(total=total, completed=done, width=width), end="")
            self._console.print(f" {text}", end="\n" if last else "", soft_wrap=True)
            return
        tenth = f"{phase} {10 * done // total if total else done}"
        if phase in SLOWEST and tenth != self._shown:
            self._shown = tenth
            self._console.print(f"{phase}: {text}", soft_wrap=True)


class _NotebookBars:
    """A tqdm bar for each of the slowest phases."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bars: dict[str, Any] = {}

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        if phase not in LINE_ENDS:
            return
        bar = self._bars.get(phase)
        if bar is None or done < bar.n:
            bar = self._bars[phase] = self._tqdm(
                total=total, desc=phase, unit=f" {UNITS.get(phase, 'frames')}", initial=done
            )
        bar.update(done - bar.n)
        if total is not None and done >= total:
            bar.close()
            del self._bars[phase]


def _notebook_bar() -> Any:
    """The class ``tqdm.auto.tqdm``, in a notebook where it is installed; None elsewhere."""
    if "ipykernel" not in sys.modules:
        return None
    try:
        return importlib.import_module("tqdm.auto").tqdm
    except ImportError:
        return None


def _scale(phase: str) -> int:
    """Bytes are told in megabytes."""
    return 10**6 if phase == "download" else 1


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 20 else f"{rate:.2g}"


def _clock(seconds: float) -> str:
    """``0:05``, ``12:00``, ``3:00:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
