"""The notebooks run, and what they show was stored with them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import require

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
STATED = {
    "ask": ["16.0s to 20.0s", "orange", "Plan: it fits"],
    "keep": ["an orange star", "16.0s to 20.0s", "a purple card with 1", "a yellow heart"],
    "many": ["8 rows", "broken.mp4"],
    "evidence": ["(16.0, 20.0", "film.html"],
    "finetune": ["4 steps"],
}
"""What must stand in the outputs of each."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "script" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_were_stored(script: ModuleType, path: Path) -> None:
    cells = [cell for cell in script.read(path)["cells"] if cell["cell_type"] == "code"]
    stored = str([cell["outputs"] for cell in cells])
    assert all(text in stored for text in STATED[path.stem])
    assert "/tmp/" not in stored


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run(script: ModuleType, path: Path, tmp_path: Path) -> None:
    if path.stem == "finetune":
        require("peft")
    outputs = str(script.run(script.read(path), tmp_path))
    assert all(text in outputs for text in STATED[path.stem])


def test_every_notebook_says_something() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(STATED)
