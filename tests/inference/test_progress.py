"""Progress: a bar on a terminal, lines elsewhere, and whatever a caller gives."""

from __future__ import annotations

import io
import re
import sys

import pytest

from videoxl.inference.progress import Rates, as_progress, count_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_bar_is_drawn_over_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    progress = as_progress(True)
    for done in (1000, 2000):
        progress("prefill", done, 2000)
    text = shown.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    first, second = plain.removeprefix("\r").split("\r")
    assert first.startswith("prefill  ")
    assert first.endswith(" 1,000 of 2,000 frames (50 %)")
    assert second.endswith(" 2,000 of 2,000 frames (100 %)\n")
    assert "\x1b[?25l" not in text  # the cursor stays, whatever happens next


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [0.0]
    monkeypatch.setattr("videoxl.inference.progress.time.monotonic", lambda: now[0])
    return now


def test_rate_and_remaining_time_count_from_the_first_call(clock: list[float]) -> None:
    rates = Rates()
    assert rates.tell("videos", 100, 200) == ""  # those were done in the run before
    clock[0] = 0.4
    assert rates.tell("videos", 101, 200) == ""
    clock[0] = 10
    assert rates.tell("videos", 120, 200) == ", 2/s, 0:40 left"
    clock[0] = 4000
    assert rates.tell("videos", 121, 142) == ", 0.0053/s, 1:06:40 left"
    assert rates.tell("videos", 121, None) == ", 0.0053/s"
    assert rates.tell("videos", 0, 10) == ""  # another run


def test_bytes_are_told_in_megabytes(clock: list[float]) -> None:
    rates = Rates()
    rates.tell("download", 0, 16 * 10**9)
    clock[0] = 10
    told = count_of("download", 10**9, 16 * 10**9) + rates.tell("download", 10**9, 16 * 10**9)
    assert told == "1,000 of 16,000 MB (6 %), 100/s, 2:30 left"


def test_a_narrow_terminal_gets_a_line_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    as_progress(True)("prefill", 1000, 2000)
    assert len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue()).strip("\r")) <= 50


def test_a_notebook_gets_the_bars_of_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    told: list[object] = []

    class Bar:
        def __init__(self, *, total: int, desc: str, unit: str, initial: int) -> None:
            self.n = initial
            told.append((total, desc, unit, initial))

        def update(self, more: int) -> None:
            self.n += more
            told.append(more)

        def close(self) -> None:
            told.append("closed")

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    progress = as_progress(True)
    for phase, done in (("vision", 2), ("prefill", 0), ("prefill", 3), ("prefill", 4)):
        progress(phase, done, 4)
    assert told == [(4, "prefill", " frames", 0), 0, 3, 1, "closed"]


def test_elsewhere_there_is_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    progress = as_progress(True)
    for done in range(0, 101, 5):
        progress("decode", done, 100)
        progress("prefill", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "prefill: 100 of 100 frames (100 %)"


def test_silence_and_the_callers_own(capsys: pytest.CaptureFixture[str]) -> None:
    as_progress(False)("prefill", 1, 1)
    told: list[tuple[object, ...]] = []
    as_progress(lambda *step: told.append(step))("generate", 3, None)
    assert told == [("generate", 3, None)]
    assert capsys.readouterr().err == ""
