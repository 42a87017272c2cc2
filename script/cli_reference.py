"""Write ``docs/reference/cli.md`` from the command line's own definitions.

Run it as ``.venv/bin/python script/cli_reference.py``. ``tests/test_docs.py`` fails when the page is out of date.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import typer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"
HEAD = """# Command line

Answers go to stdout and everything else to stderr. The exit status is 0, 1 (failed), 2 (wrong usage or input) or 130
(interrupted). An expected error is one line; `videoxl --debug COMMAND ...` shows where it came from.

<!-- Written by script/cli_reference.py. Do not edit. -->
"""


KINDS = {"str": "text", "integer": "int", "list[str": "text"}
"""Names of types, which differ between versions of typer."""


def reference() -> str:
    """The whole page."""
    from videoxl.cli.main import app

    sections: list[str] = []
    _add(typer.main.get_command(app), "videoxl", sections)
    return "\n".join([HEAD, *sections])


def _add(command: Any, path: str, sections: list[str]) -> None:
    """Append the section of a command, and those of its subcommands."""
    sections.append(_section(command, path))
    for name, inner in getattr(command, "commands", {}).items():
        _add(inner, f"{path} {name}", sections)


def _section(command: Any, path: str) -> str:
    text = inspect.cleandoc(command.help or "").replace("\b", "").replace("\f", "")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    context = typer.Context(command, info_name=path)
    usage = [path, *map(_placeholder, arguments), *(["[OPTIONS]"] if options else [])]
    usage += ["COMMAND ..."] if getattr(command, "commands", None) else []
    lines = [f"## {path}", "", text, ""]
    lines += ["```text", " ".join(usage), "```", ""]
    if arguments:
        rows = [f"| `{_placeholder(p)}` | {_help(p)} |" for p in arguments]
        lines += ["| argument | meaning |", "|---|---|", *rows, ""]
    if options:
        rows = [f"| {_flags(p, context)} | {_default(p)} | {_help(p)} |" for p in options]
        lines += ["| option | default | meaning |", "|---|---|---|", *rows, ""]
    if examples := [line.strip() for line in (command.epilog or "").split("\n\n")[1:]]:
        lines += ["```shell", *examples, "```", ""]
    return "\n".join(lines)


def _placeholder(argument: Any) -> str:
    name = argument.name.upper().strip("_") + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _flags(option: Any, context: Any) -> str:
    """Long name first, with the kind of value it takes."""
    first, *others = sorted(option.opts, key=len, reverse=True)
    if option.is_flag:
        return ", ".join(f"`{name}`" for name in (first, *others))
    kind = option.get_help_record(context)[0].split()[-1].strip("<>[]").lower()
    return ", ".join([f"`{first} {KINDS.get(kind, kind).upper()}`", *(f"`{name}`" for name in others)])


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default
    return "" if value is None or value is False or value in ((), []) or callable(value) else f"`{value}`"


def _help(parameter: Any) -> str:
    return " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.path.insert(0, str(PAGE.parents[2] / "src"))
    PAGE.write_text(reference(), encoding="utf-8")
