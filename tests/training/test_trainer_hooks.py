"""Undocumented names of transformers stay in one file, which lists them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from transformers import Trainer

import videoxl.training.trainer_hooks as hooks

FOLDER = Path(hooks.__file__).parent
PUBLIC = {"transformers", "transformers.utils"}
"""Modules whose names the documentation of transformers lists."""


def private_names(path: Path) -> set[str]:
    """Private attributes of a parent class, private methods that replace one, and imports of undocumented modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
            "transformers",
            "accelerate",
            "peft",
        ):
            found |= (
                {alias.name for alias in node.names} if node.module not in {*PUBLIC, "accelerate", "peft"} else set()
            )
        if isinstance(node, ast.FunctionDef) and node.name in vars(Trainer) and node.name.startswith("_"):
            found |= {node.name} - {"__init__"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
            is_super = isinstance(node.value.func, ast.Name) and node.value.func.id == "super"
            found |= {node.attr} if is_super and re.match("_[a-z]", node.attr) else set()
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_only_the_hooks_use_private_names(path):
    listed = set(re.findall(r"^\* ``(?:[\w.]+\.)?(\w+)``", hooks.__doc__, flags=re.MULTILINE))
    assert private_names(path) == (listed if path.name == "trainer_hooks.py" else set())
    assert 0 < len(listed) <= 4
