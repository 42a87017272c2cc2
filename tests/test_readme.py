"""The code of the README runs as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import Run, videoxl  # noqa: F401 - a fixture
from videoxl.cli.demo import write_demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would stand, with a film."""
    folder = tmp_path_factory.mktemp("readme")
    write_demo(folder / "film.mp4")
    return folder


def test_python_runs(folder: Path) -> None:
    (code,) = blocks("python")
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=250, check=False
    )
    assert result.returncode == 0, result.stderr
    (stated,) = blocks("text")
    shape = re.compile(r"(16\.0s to 20\.0s EvidenceSpan\(start=16\.0, end=20\.0, share=)(0\.\d+)\)\n")
    said, told = shape.fullmatch(result.stdout), shape.fullmatch(stated)
    assert said is not None, result.stdout
    assert told is not None
    assert float(said[2]) == pytest.approx(float(told[2]), abs=0.02)  # rounding differs between machines


def test_shell_commands_run(folder: Path, videoxl: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """As without a network and with an empty cache."""
    monkeypatch.chdir(folder)
    lines = [line for block in blocks("shell") for line in block.splitlines() if line.startswith("videoxl ")]
    assert len(lines) == 5
    for line in lines:
        result = videoxl(*shlex.split(line, comments=True)[1:])
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert result.stdout
        if "white moon" in line:
            assert result.stdout == "16.0s to 20.0s\n"
    assert "<video " in (folder / "film.html").read_text(encoding="utf-8")
    assert "an orange star" in (folder / "film.srt").read_text(encoding="utf-8")


def test_links_are_absolute_and_lead_into_the_repository() -> None:
    """A package index shows the page where no repository is around it."""
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert [link for link in links if not link.startswith("https://")] == []
    ours = [
        re.sub(r"^https://(?:raw\.githubusercontent|github)\.com/videoxl/videoxl/(?:blob/|tree/)?main/", "", link)
        for link in links
    ]
    for path in (path.partition("#")[0] for path, link in zip(ours, links) if path != link):
        assert (ROOT / path).exists(), path


def test_scripts_exist() -> None:
    scripts = [
        line.split()[0] for block in blocks("shell") for line in block.splitlines() if line.startswith("script/")
    ]
    assert scripts == ["script/demo", "script/test"]
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK)


def test_the_table_of_gpu_memory_is_what_plan_says() -> None:
    """Written by ``script/gpu_table.py``, which says how to write it anew."""
    spec = importlib.util.spec_from_file_location("gpu_table", ROOT / "script" / "gpu_table.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.BEGIN in README
    assert script.with_table(README) == README
