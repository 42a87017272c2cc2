"""The configuration file: defaults and short names, which file wins, and names that nothing has."""

# ruff: noqa: F811  (fixtures of another file have the names of arguments)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import Run, film, one_line, videoxl  # noqa: F401  (fixtures)
from videoxl.cli import configuration


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, and beside it the folder of the user's file."""
    (tmp_path / "here").mkdir()
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(configuration, "user_config_path", lambda name: tmp_path / "user")
    return tmp_path / "here"


QUICK = "[defaults]\nmodel = 'small'\nquiet = true\n[ask]\nmax-new-tokens = 2\njson = true\n[aliases]\nsmall = 'tiny'\n"


def test_defaults_and_short_names(videoxl: Run, film: Path, here: Path) -> None:
    Path("videoxl.toml").write_text(QUICK)
    result = videoxl("ask", film, "What?")
    (record,) = json.loads(result.stdout)
    assert (record["model"], record["settings"]["max_new_tokens"], result.stderr) == ("tiny", 2, "")
    (record,) = json.loads(videoxl("ask", film, "What?", "--max-new-tokens", 3, "-m", "tiny-v1").stdout)
    assert (record["model"], record["settings"]["max_new_tokens"]) == ("tiny-v1", 3)
    facts = json.loads(videoxl("plan", film, "--model", "small", "--json").stdout)
    assert facts["memory_tokens"] > 0


def test_the_working_directory_wins_over_the_user_and_config_over_both(videoxl: Run, here: Path) -> None:
    (here.parent / "user" / "videoxl.toml").write_text("[demo]\nmodel = 'tiny-v1'\njson = true\n")
    group = _group()
    both = configuration.use(None, group)
    assert both.commands["demo"] == {"model": "tiny-v1", "as_json": True}
    Path("videoxl.toml").write_text("[demo]\nmodel = 'tiny'\n")
    assert configuration.use(None, group).commands["demo"] == {"model": "tiny", "as_json": True}
    Path("other.toml").write_text("[eval.niah]\nseed = 5\n")
    only = configuration.use("other.toml", group)
    assert (only.files, only.commands["demo"]) == ((Path("other.toml"),), {})
    assert only.commands["eval"]["niah"] == {"seed": 5}
    told = json.loads(videoxl("--config", "other.toml", "info", "--system", "--json").stdout)
    assert told["configuration"] == str(here / "other.toml")
    Path("videoxl.toml").unlink()
    (here.parent / "user" / "videoxl.toml").unlink()
    none = json.loads(videoxl("info", "--system", "--json").stdout)["configuration"]
    assert none == f"none; looked for {here.parent / 'user' / 'videoxl.toml'} and {here / 'videoxl.toml'}"


def _group():
    import typer

    from videoxl.cli.main import app

    return typer.main.get_command(app)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[defaults]\nmax-frame = 3\n", "in [defaults]: unknown name 'max-frame'; did you mean max_frames?"),
        ("[ask]\nmodell = 'tiny'\n", "in [ask]: unknown name 'modell'; did you mean model?"),
        ("[aks]\nmodel = 'tiny'\n", "unknown name 'aks'; did you mean ask?"),
        ("[encode]\nmax-new-tokens = 3\n", "in [encode]: unknown name 'max-new-tokens'"),
        ("[eval.niha]\nseed = 3\n", "in [eval]: unknown name 'niha'; did you mean niah?"),
        ("model = 'tiny'\n", "unknown name 'model'"),
        ("ask = 3\n", "ask must be a table"),
        ("[aliases]\nsmall = 3\n", "small must be the name of a model, got 3"),
        ("[aliases]\ntiny = 'x/y'\n", "tiny is an embedded model; choose another name"),
        ("[ask\n", "videoxl.toml is not TOML"),
        ("a = '\udcff'", "videoxl.toml is not UTF-8 at byte 5"),
        ("[defaults]\nfps = 'many'\n", "'--fps'"),
    ],
)
def test_what_nothing_has_is_one_line(videoxl: Run, film: Path, here: Path, content: str, said: str) -> None:
    Path("videoxl.toml").write_bytes(content.encode(errors="surrogateescape"))
    result = videoxl("ask", film, "What?", "-m", "tiny")
    assert (result.returncode, said in one_line(result)) == (2, True), result.stderr


def test_a_file_that_is_named_must_be_there(videoxl: Run, here: Path) -> None:
    result = videoxl("--config", "no.toml", "info", "--system")
    assert (result.returncode, one_line(result)) == (2, "videoxl: no.toml cannot be read: No such file or directory")


def test_a_default_of_reading_is_none_for_a_memory(videoxl: Run, film: Path, here: Path) -> None:
    Path("videoxl.toml").write_text("[defaults]\nmodel = 'tiny'\nfps = 0.25\nquiet = true\n")
    assert videoxl("encode", film, "-o", "a.vxl").returncode == 0
    for sources in (("a.vxl",), ("a.vxl", "a.vxl")):
        asked = videoxl("ask", *sources, "--question", "What?", "--max-new-tokens", 2)
        assert asked.returncode == 0, asked.stderr
    refused = videoxl("ask", "a.vxl", "What?", "--fps", 2)
    assert "leave out --fps" in one_line(refused)
