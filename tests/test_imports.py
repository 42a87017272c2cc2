"""Which part may know which, and that every part can be imported."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import videoxl
from videoxl.hf.processing import VideoXLProcessor
from videoxl.model.private import PRIVATE_NAMES
from videoxl.model.videoxl import VideoXLModel

ROOT = Path(videoxl.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"
)
LAYERS = (
    ("errors", "text", "_version"),
    ("settings", "json_lines"),
    ("config_strings", "config_answers", "line_file", "out_of_memory", "cues", "storage"),
    ("cues_json",),
    ("config_keywords",),
    ("config",),
    ("video", "model", "memory"),
    ("world", "words"),
    ("inference",),
    ("many", "catalogue"),
    ("live",),
    ("released",),
    ("hf", "parity", "mm_utils", "constants", "conversation", "demo_utils", "utils"),
    ("scenarios", "_on_import"),
    ("evaluation", "training", "server", "agents"),
    ("cli",),
)
"""From low to high. A part imports itself and parts of lower layers; those of one layer do not know one another."""
LIGHT = {
    *("errors", "text", "settings", "json_lines", "line_file", "storage", "video"),
    *("config_strings", "config_answers", "config_keywords", "config", "cues", "cues_json"),
}
"""Parts that need neither torch nor transformers."""


def may_import(part: str) -> set[str]:
    level = next(n for n, parts in enumerate(LAYERS) if part in parts)
    return {part}.union(*LAYERS[:level])


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(module: str) -> set[str]:
    """Modules of this package that a module imports anywhere: at the top, inside functions, for type checking."""
    path = ROOT.parent / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{name.name}" for name in node.names}
            found |= {part if part in MODULES else node.module for part in parts}
    return {name for name in found if name.split(".")[0] == "videoxl"} - {module}


def test_every_part_has_a_layer():
    assert {part_of(module) for module in MODULES} - {""} == {part for parts in LAYERS for part in parts}


@pytest.mark.parametrize("part", [part for parts in LAYERS for part in parts])
def test_a_part_imports_only_what_lies_below_it(part):
    allowed = may_import(part)
    wrong = {
        f"{module} imports {name}"
        for module in MODULES
        if part_of(module) == part
        for name in imports_of(module)
        if part_of(name) not in allowed and (part, name) != ("cli", "videoxl")
    }
    assert wrong == set()


def test_no_files_import_one_another_in_a_circle():
    left = {module: imports_of(module) for module in MODULES}
    while free := {module for module, names in left.items() if not names & left.keys()}:
        left = {module: names for module, names in left.items() if module not in free}
    assert sorted(left) == []  # each of these needs another one of them


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith(("__", "_abc_"))


def private_overrides() -> set[str]:
    """Private names of transformers' classes that classes of this package define anew."""
    found = set()
    for module in MODULES:
        for klass in vars(importlib.import_module(module)).values():
            if isinstance(klass, type) and klass.__module__ == module:
                above = [vars(base) for base in klass.__mro__ if base.__module__.split(".")[0] == "transformers"]
                found |= {name for name in vars(klass) if is_private(name) and any(name in base for base in above)}
    return found


def calls_of(tree: ast.AST, *names: str) -> list[ast.Call]:
    """Calls of built-in functions whose second argument is a text."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [c for c in calls if c.func.id in names and len(c.args) > 1 and isinstance(c.args[1], ast.Constant)]


def private_uses(module: str, known: set[str]) -> set[str]:
    """Private names that a module imports from transformers, or reads of objects where it defines no such name."""
    path = ROOT.parent / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & known - own
    read |= {text.value for call in calls_of(tree, "getattr", "setattr") for text in call.args[1:2]} & known
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers"
        for name in node.names
        if is_private(name.name)
    }
    return read | imported


def test_only_listed_private_names_of_transformers_are_used():
    from transformers import Cache, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase, Trainer

    used = private_overrides()
    classes = (Cache, GenerationConfig, PreTrainedTokenizerBase, Trainer, VideoXLModel, VideoXLProcessor)
    bases = [base for klass in classes for base in klass.__mro__ if base.__module__.startswith("transformers.")]
    known = {name for base in bases for name in vars(base) if is_private(name)}
    known |= {name for thing in (PreTrainedConfig(), GenerationConfig()) for name in vars(thing) if is_private(name)}
    known |= {"_name_or_path", "_attn_implementation"}
    used |= set().union(*(private_uses(module, known) for module in MODULES))
    assert used == set(PRIVATE_NAMES)
    assert len(used) <= 10


def test_the_inside_of_model_families_of_transformers_is_not_imported():
    for module in MODULES:
        path = ROOT.parent / Path(*module.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module != "videoxl.model.vision" and part_of(module) != "hf":
            assert "transformers.models." not in file.read_text(encoding="utf-8"), module


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
    modules = [m for m in MODULES if part_of(m) in LIGHT and not m.endswith("decoder.torchcodec")]
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\n"
    assert fresh(code + "print([m for m in ('torch', 'transformers') if m in sys.modules])") == "[]"


def test_importing_the_package_imports_no_framework():
    heavy = ("torch", "transformers", "av", "torchvision", "numpy")
    assert fresh(f"import sys, videoxl\nprint([m for m in {heavy!r} if m in sys.modules])") == "[]"


FIRST = (
    "model.configuration",
    "model.videoxl",
    "released.chat",
    "hf.processing",
    "parity",
    "model.builder",
    "mm_utils",
    "inference.loading",
    "memory.kv_cache",
    "hf",
    "training.run",
)


def each_forked(codes: list[str]) -> list[str]:
    """Those of ``codes`` that fail, each in a process of its own that has loaded nothing of transformers."""
    forks = f"""
import os, sys, traceback
import torch, numpy, tokenizers, torchvision
bad = []
for code in {codes!r}:
    child = os.fork()
    if child == 0:
        try:
            exec(code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        bad.append(code)
print(bad)
"""
    return ast.literal_eval(fresh(forks))


REGISTERED = """
from transformers import {name}, MODEL_FOR_CAUSAL_LM_MAPPING
found = [c.__name__ for c in MODEL_FOR_CAUSAL_LM_MAPPING if c.__module__.startswith('videoxl')]
assert found == ['VideoXLConfig'], found
"""


@pytest.mark.slow
def test_any_module_can_be_the_first_to_be_imported():
    """Registration must not meet it half-way, nor be left out. ``memory.kv_cache`` alone loads no model."""
    codes = [
        f"import videoxl.{module}" + ("" if module == "memory.kv_cache" else REGISTERED.format(name="AutoModel"))
        for module in FIRST
    ]
    assert each_forked(codes) == []


@pytest.mark.slow
def test_the_models_are_registered_whatever_is_imported_first():
    """Modules of transformers import the Auto classes, with which the models here register, half way through."""
    cases = [
        ("import videoxl", "SiglipModel"),
        ("import videoxl", "Qwen2ForCausalLM"),
        ("import videoxl", "AutoModel"),
        ("import videoxl, transformers", "AutoModel"),
        ("from transformers import AutoModel; import videoxl", "AutoModel"),
        ("from videoxl import load", "AutoModel"),
        ("from videoxl.memory.kv_cache import KVCache; import videoxl.inference", "AutoModel"),
    ]
    assert each_forked([imports + REGISTERED.format(name=name) for imports, name in cases]) == []
