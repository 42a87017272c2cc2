"""What leaves the command line: no text commands a terminal, and closed or full streams cost a line at most."""

# ruff: noqa: F811  (fixtures of another file have the names of arguments)

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_cli import Run, film, one_line, videoxl  # noqa: F401  (fixtures)
from tests.memory.stored import with_header
from videoxl import cli
from videoxl.cli.main import main
from videoxl.memory.video_memory import VideoMemory

EVIL = "\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202erm -rf\r\nall is well\x7f"


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    """A memory whose every text is hostile, of the embedded model."""
    from videoxl import load

    folder = tmp_path_factory.mktemp("evil")
    engine = load("tiny", device="cpu")
    from tests.memory.stored import pictures, seconds

    made = engine.encode(frames=pictures(8), timestamps=seconds(8))
    usage = replace(made.usage, source=EVIL, sampling=EVIL, digest=EVIL, reader=EVIL)
    VideoMemory(replace(made.state, usage=usage, warnings=(EVIL,)), engine).save(folder / "film.vxl")

    def change(header: dict) -> None:
        header["__metadata__"]["videoxl"] = EVIL
        header["__metadata__"]["model"] = json.dumps({**json.loads(header["__metadata__"]["model"]), "name": EVIL})

    return with_header(folder / "film.vxl", folder / "evil.vxl", change)


def harmless(text: str) -> bool:
    return not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 or c == "\u202e" for c in text)


def test_what_a_memory_says_is_shown_and_not_obeyed(videoxl: Run, memory: Path) -> None:
    table = videoxl("info", memory)
    assert table.returncode == 0
    assert harmless(table.stdout)
    assert table.stdout.count("\\x1b]0;PWNED") == 6
    assert "\nall is well" not in table.stdout
    facts = json.loads(videoxl("info", memory, "--json").stdout)
    assert facts["source"] == EVIL
    assert harmless(videoxl("info", memory, "--json").stdout)
    asked = videoxl("ask", memory, "What?", "-m", "tiny", "--max-new-tokens", 2, "--json")
    assert json.loads(asked.stdout)[0]["warnings"] == [EVIL]
    assert harmless(asked.stdout + asked.stderr)


def test_what_a_model_says_is_shown_and_not_obeyed(videoxl: Run, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videoxl.inference.decode.text.AnswerText.whole", lambda self: EVIL)
    for command in (("ask", memory, "What?"), ("chat", memory)):
        said = videoxl(*command, "-m", "tiny", "--max-new-tokens", 2, stdin="What?\n")
        assert said.returncode == 0
        assert harmless(said.stdout + said.stderr)
        assert said.stdout == "\\x1b]0;PWNED\\x07\\x1b[2J\\x9b31m\\u202erm -rf\nall is well\\x7f\n"


def test_errors_and_warnings_are_one_line_each(videoxl: Run, tmp_path: Path) -> None:
    result = videoxl("info", tmp_path / EVIL.replace("/", ""))
    assert result.returncode == 2
    assert harmless(one_line(result))
    named = tmp_path / "n\udcff\x1b[2J.mp4"
    line = one_line(videoxl("info", named))
    assert "\\x1b[2J.mp4: no such file" in line
    assert line.encode()


def test_a_bug_shows_where_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise KeyError(EVIL)

    monkeypatch.setattr("videoxl.cli.info.describe", fail)
    with pytest.raises(KeyError) as found:
        main(["info", "x"])
    sys.excepthook(found.type, found.value, found.tb)
    lines = capsys.readouterr().err
    assert harmless(lines)
    assert lines.startswith("Traceback (most recent call last):")
    assert lines.splitlines()[-1].startswith("videoxl: this is a fault of videoxl")
    monkeypatch.setattr("videoxl.cli.info.describe", lambda *a, **b: (_ for _ in ()).throw(AssertionError("never")))
    with pytest.raises(AssertionError, match="never"):
        main(["info", "x"])


def test_nothing_is_printed_beside_the_exits() -> None:
    for path in Path(videoxl_cli_folder()).glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        printed = [
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
        assert not printed or path.name == "output.py", f"{path.name}:{printed}: use videoxl.cli.output"


def videoxl_cli_folder() -> str:
    return os.path.dirname(cli.__file__ or "")


# ---------------------------------------------------------------------------------------------- streams, as processes

SCRIPT = """
import os, sys
sys.path[:0] = {path!r}
{before}
from videoxl.cli.main import main
main({arguments!r})
"""


def process(before: str, *arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(path=[p for p in sys.path if p], before=before, arguments=list(arguments))
    return subprocess.run(
        [sys.executable, "-c", script], text=True, check=False, timeout=200, **{"stderr": subprocess.PIPE, **how}
    )


def test_a_full_stdout_is_named() -> None:
    with open("/dev/full", "w") as full:
        ended = process("", "--version", stdout=full)
    assert ended.returncode == 2
    assert ended.stderr == (
        "videoxl: standard output: No space left on device; free some space, or write to another disk\n"
    )


def test_a_full_stderr_is_no_obstacle(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = process("", "info", str(tmp_path / "none.mp4"), stdout=subprocess.PIPE, stderr=full)
    assert (ended.returncode, ended.stdout) == (2, "")


def test_who_stops_reading_hears_no_more() -> None:
    read, write = os.pipe()
    os.close(read)
    ended = process("", "--version", stdout=write)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_closed_streams(memory: Path, tmp_path: Path) -> None:
    """And a file that is written meanwhile does not get the number of one."""
    closed = process("os.close(0); os.close(1); os.close(2)", "--version", stdout=subprocess.PIPE)
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")


def test_chat_without_questions_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit) as ended:
        main(["chat", "film.mp4"])
    assert ended.value.code == 2
    assert "standard input, which is closed" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- odd questions


def test_half_characters_in_questions(videoxl: Run, memory: Path) -> None:
    asked = videoxl("ask", memory, "What \udcff?", "-m", "tiny")
    assert asked.returncode == 2
    assert "the question holds half a character (U+DCFF, at place 6)" in one_line(asked)
    talked = videoxl("chat", memory, "-m", "tiny", "--max-new-tokens", 2, stdin="What \ud800?\n")
    assert talked.returncode == 2
    assert "half a character" in talked.stderr.splitlines()[-1]
