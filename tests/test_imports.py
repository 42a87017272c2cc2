"""Which part may know which, and that every part can be imported."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import videoxl

ROOT = Path(videoxl.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"
)
BASE = {"config", "config_strings", "settings", "errors"}
MAY_IMPORT = {
    "video": BASE | {"video"},
    "model": BASE | {"model"},
    "memory": BASE | {"memory"},
    "inference": BASE | {"inference", "video", "model", "memory"},
    "world": BASE | {"world"},
    "training": BASE | {"training", "world", "hf", "inference", "video", "model", "memory"},
    "parity": BASE | {"parity", "inference", "video", "model", "memory"},
    "config": {"config_strings", "settings", "errors"},
    "config_strings": {"settings", "errors"},
    "settings": {"errors"},
    "errors": set(),
}
"""Part -> the parts it may import. What is not listed stands above all of these and may import any of them."""
EXEMPT: set[str] = set()
"""An adapter at the address the released package has it (DESIGN 6); it stands above, with mm_utils and constants."""


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(module: str) -> set[str]:
    """Modules of this package that a module imports anywhere, also inside functions."""
    path = ROOT.parent / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{n.name}" for n in node.names if node.module == "videoxl"}
    return {name for name in found if name.split(".")[0] == "videoxl"}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_lies_below_it(part):
    wrong = {
        f"{module} imports {name}"
        for module in MODULES
        if part_of(module) == part and module not in EXEMPT
        for name in imports_of(module)
        if name != "videoxl" and (part_of(name) not in MAY_IMPORT[part] or name in EXEMPT)
    }
    assert wrong == set()


def test_no_part_imports_the_package_as_a_whole():
    assert [m for m in MODULES if part_of(m) in MAY_IMPORT and "videoxl" in imports_of(m)] == []


def test_relative_imports_are_not_used():
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level], path


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported(module):
    importlib.import_module(module)


def test_the_public_names_are_all_there():
    assert sorted(videoxl.__all__) == sorted(dir(videoxl))
    for name in videoxl.__all__:
        assert getattr(videoxl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = videoxl.nonsense


@pytest.mark.parametrize("module", ["videoxl.video", "videoxl.parity"])
def test_the_names_a_part_offers_are_all_there(module):
    part = importlib.import_module(module)
    assert all(hasattr(part, name) for name in part.__all__)


def fresh(code: str) -> str:
    """Output of a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_reading_videos_needs_neither_torch_nor_transformers():
    modules = [m for m in MODULES if part_of(m) in {"video", *BASE} and not m.endswith("decoder.torchcodec")]
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\n"
    assert fresh(code + "print([m for m in ('torch', 'transformers') if m in sys.modules])") == "[]"


def test_importing_the_package_imports_no_framework():
    heavy = ("torch", "transformers", "av", "torchvision", "numpy")
    assert fresh(f"import sys, videoxl\nprint([m for m in {heavy!r} if m in sys.modules])") == "[]"


FIRST = (
    "model.configuration",
    "model.videoxl",
    "released.chat_v2",
    "hf.processing",
    "parity",
    "model.builder",
    "mm_utils",
    "inference.loading",
    "memory.kv_cache",
    "hf",
    "training.run",
)


@pytest.mark.slow
def test_any_module_can_be_the_first_to_be_imported():
    """Each in a process of its own, forked after torch: registration must not meet it half-way, nor be left out."""
    code = f"""
import os, sys, traceback
import torch, numpy, tokenizers
bad = []
for module in {FIRST!r}:
    child = os.fork()
    if child == 0:
        try:
            __import__("videoxl." + module)
            if module != "memory.kv_cache":  # which alone loads no model
                from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
                from videoxl.model.configuration import VideoXLConfig
                assert VideoXLConfig in MODEL_FOR_CAUSAL_LM_MAPPING
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        bad.append(module)
print(bad)
"""
    assert fresh(code) == "[]"


@pytest.mark.parametrize(
    ("imports", "name"),
    [
        ("import videoxl", "SiglipModel"),
        ("import videoxl", "Qwen2ForCausalLM"),
        ("import videoxl", "AutoModel"),
        ("import videoxl, transformers", "AutoModel"),
        ("from transformers import AutoModel; import videoxl", "AutoModel"),
        ("from videoxl import load", "AutoModel"),
        ("from videoxl.memory.kv_cache import KVCache; import videoxl.inference", "AutoModel"),
    ],
)
def test_the_models_are_registered_whatever_is_imported_first(imports, name):
    """Modules of transformers import the Auto classes, with which the models here register, half way through."""
    code = (
        f"{imports}\nfrom transformers import {name}, MODEL_FOR_CAUSAL_LM_MAPPING\n"
        "print([c.__name__ for c in MODEL_FOR_CAUSAL_LM_MAPPING if c.__module__.startswith('videoxl')])"
    )
    assert fresh(code) == "['VideoXLConfig']"
