"""The code of the README runs as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from videoxl.cli.convert import convert_checkpoint
from videoxl.cli.demo import write_demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would stand: a film and a checkpoint."""
    folder = tmp_path_factory.mktemp("readme")
    write_demo(folder / "film.mp4")
    convert_checkpoint("tiny", str(folder / "checkpoint"), "released")
    return folder


@pytest.mark.parametrize("number", range(2))
def test_python_blocks_run(number: int, folder: Path) -> None:
    code = blocks("python")[number]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=250, check=False
    )
    assert result.returncode == 0, result.stderr
    if "print(memory)" in code:
        assert result.stdout.startswith("VideoMemory(0:00:00-0:00:48, 48 frames")


def test_there_are_no_other_python_blocks() -> None:
    assert len(blocks("python")) == 2


@pytest.mark.timeout(600)  # each command loads torch anew
def test_shell_commands_run(folder: Path) -> None:
    """As without a network and with an empty cache."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "cache")}
    lines = [line for block in blocks("shell") for line in block.splitlines() if line.startswith("videoxl ")]
    assert len(lines) == 5
    for line in lines:
        arguments = shlex.split(line)[1:]
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


def test_scripts_and_links_exist() -> None:
    for block in blocks("shell"):
        for line in block.splitlines():
            if line.startswith("script/"):
                assert (ROOT / line.split()[0]).is_file()
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
