"""The code of the README runs as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
    memory, answer = result.stdout.splitlines()
    assert memory.startswith("VideoMemory(0:00:00-0:00:48, 48 frames")
    assert answer.startswith("16.0s to 20.0s {'decode': ")


@pytest.mark.timeout(600)  # each command loads torch anew
def test_shell_commands_run(folder: Path) -> None:
    """As without a network and with an empty cache."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "cache")}
    lines = [line for block in blocks("shell") for line in block.splitlines() if line.startswith("videoxl ")]
    assert len(lines) == 3
    for line in lines:
        arguments = shlex.split(line, comments=True)[1:]
        result = subprocess.run(
            [sys.executable, "-m", "videoxl", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert result.stdout
    assert result.stdout == "16.0s to 20.0s\n"


def test_scripts_exist() -> None:
    scripts = [
        line.split()[0] for block in blocks("shell") for line in block.splitlines() if line.startswith("script/")
    ]
    assert scripts == ["script/demo", "script/test"]
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK)
