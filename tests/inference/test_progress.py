"""Progress: a bar on a terminal, lines elsewhere, and whatever a caller gives."""

from __future__ import annotations

import io
import re

import pytest

from videoxl.inference.progress import as_progress


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
