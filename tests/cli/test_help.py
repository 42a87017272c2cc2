"""Help: examples that exist, headings, the short option, and the width of the terminal."""

from __future__ import annotations

import io
import json
import shlex

import pytest
import typer

from tests.cli.test_cli import Run, film, videoxl  # noqa: F401  (fixtures)
from videoxl.cli.chat import read_line
from videoxl.cli.examples import EXAMPLES
from videoxl.cli.main import app
from videoxl.many.record import AnswerRecord

COMMANDS = typer.main.get_command(app).commands


def test_every_command_has_examples_and_they_exist() -> None:
    assert {name for name, command in COMMANDS.items() if not hasattr(command, "commands")} == set(EXAMPLES)
    for name, examples in EXAMPLES.items():
        flags = {flag for option in COMMANDS[name].params for flag in (*option.opts, *option.secondary_opts)}
        for example in examples:
            program, command, *rest = shlex.split(example)
            assert (program, command) == ("videoxl", name)
            assert {word for word in rest if word.startswith("-")} <= flags, example


@pytest.mark.parametrize("name", ["ask", "ground", "info"])
def test_help_shows_the_examples_and_fits_the_terminal(videoxl: Run, monkeypatch, name: str) -> None:  # noqa: F811
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TERMINAL_WIDTH", "70")
    shown = videoxl(name, "-h").stdout
    assert shown == videoxl(name, "--help").stdout
    assert max(map(len, shown.split("\n"))) <= 70
    assert " ".join(EXAMPLES[name][0].split()[:3]) in shown


def test_options_stand_under_headings(videoxl: Run, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    shown = videoxl("ask", "-h").stdout
    for heading in ("Which model, and how", "Which frames are read, and how", "How an answer is written"):
        assert heading in shown


def test_the_shells_completion_is_offered(videoxl: Run, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    assert "--install-completion" in videoxl("--help").stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_chat_edits_lines_on_a_terminal(monkeypatch) -> None:
    lines = iter(["What?"])
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert read_line() == "What?"

    def ended(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    assert read_line() == ""


def test_chat_prints_records(videoxl: Run, film) -> None:  # noqa: F811
    talked = videoxl("chat", film, "-m", "tiny", "--json", "-q", "--max-new-tokens", 2, stdin="What?\nAnd then?\n")
    assert talked.stderr == ""
    records = [json.loads(line) for line in talked.stdout.rstrip("\n").split("\n")]
    assert [record["question"] for record in records] == ["What?", "And then?"]
    assert all(list(record) == list(AnswerRecord.__dataclass_fields__) for record in records)
