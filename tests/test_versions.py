"""What pyproject.toml declares, constraints.txt pins and the package imports belong together."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from script import versions

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "videoxl"
CONSTRAINTS = ("constraints.txt", "constraints-eval.txt")
EXTRAS = ("benchmark", "dev", "docs", "torchao")
"""What constraints.txt pins beside the base."""
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "pydantic_core": "pydantic", "annotated_types": "pydantic"}
"""Of what is imported under another name; pydantic brings the last two for its users to import."""
NOT_IMPORTED = {"torchvision": "transformers' video processors"}
"""Base dependencies that no line of the package imports, and what needs them instead."""
COMES_WITH = {"triton": "builds of torch for GPUs", "vlmeval": "VLMEvalKit, which loads its adapter itself"}
"""What the package imports only where something else brought it."""


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Third-party distributions that a file imports, and whether the file cannot be imported without them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "videoxl":
                yield canonicalize_name(DISTRIBUTIONS.get(top, top)), id(node) in at_once


IMPORTED = {(path, *found) for path in SOURCE.rglob("*.py") for found in imports_of(path)}
BASE = {canonicalize_name(one.name) for one in versions.declared()}


def every_extra() -> dict[str, list[Requirement]]:
    project = versions.tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: versions.declared(name) for name in project["optional-dependencies"]}


def test_every_base_dependency_is_imported_by_the_package():
    assert sorted(BASE - {name for _, name, _ in IMPORTED}) == sorted(NOT_IMPORTED)


def test_what_is_imported_at_once_is_a_base_dependency():
    allowed = {"lmms-eval"}  # by the plug-in, which lmms-eval itself loads
    found = {(path, name) for path, name, at_once in IMPORTED if at_once and name not in BASE | allowed}
    for part, extra in {"server": "serve", "agents": "mcp"}.items():  # imported when a server is made
        brought = {canonicalize_name(one.name) for one in versions.declared(extra)}
        found = {one for one in found if not (SOURCE / part in one[0].parents and one[1] in brought)}
    assert {(str(path), name) for path, name in found} == set()


def test_what_is_imported_anywhere_is_declared():
    declared = {canonicalize_name(one.name) for extra in every_extra().values() for one in extra}
    assert {(str(path), name) for path, name, _ in IMPORTED if name not in declared | COMES_WITH.keys()} == set()


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_the_pinned_versions_lie_in_the_ranges(extra):
    pinned = versions.pins()
    for one in versions.declared(*[extra] if extra else []):
        assert pinned[canonicalize_name(one.name)] in one.specifier, one


def test_the_pinned_versions_of_the_extra_eval_lie_in_the_ranges():
    pinned = versions.pins(ROOT / "constraints-eval.txt")
    for one in versions.declared("eval"):
        assert pinned[canonicalize_name(one.name)] in one.specifier, one


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_hold_names_and_versions_only(name):
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    line = re.compile(r"[\w.-]+==\d[\w.]*(; (python_version|python_full_version) [<>=]+ '[\d.]+')?")
    assert [one for one in lines if not line.fullmatch(one)] == []
    names = [canonicalize_name(one.partition("==")[0]) for one in lines]
    assert names == sorted(set(names))


@pytest.mark.parametrize("extra", sorted(every_extra()))
def test_every_range_has_one_lower_end(extra):
    for one in every_extra()[extra]:
        if one.name != "filelock":  # bounded from above only, for lmms-eval
            assert Version(versions.lower_end(one)) in one.specifier


def test_the_two_constraints_differ_only_where_lmms_eval_wants_older_versions():
    usual, evaluation = versions.pins(), versions.pins(ROOT / "constraints-eval.txt")
    older = {name for name in usual.keys() & evaluation.keys() if usual[name] != evaluation[name]}
    assert older <= {"av", "filelock", "protobuf", "python-dateutil"}


def test_oldest_names_every_direct_dependency_once():
    lines = versions.oldest("test")
    assert len({line.partition("==")[0] for line in lines}) == len(lines)
    assert {"torch", "torchvision", "transformers", "av", "pytest", "peft"} <= {x.partition("==")[0] for x in lines}


def test_a_range_without_lower_end_is_refused():
    with pytest.raises(ValueError, match=r"rich<15 needs one lower end, as in rich>=1\.0"):
        versions.lower_end(Requirement("rich<15"))


def test_moved_says_what_is_installed_in_another_version(monkeypatch):
    monkeypatch.setattr(versions, "pins", lambda: {"a": "1.0", "b": "2.0", "not-here": "3.0"})
    monkeypatch.setattr(versions, "installed", {"a": "1.0", "b": "2.1"}.get)
    assert versions.moved() == {"b": ("2.0", "2.1")}


def test_the_tests_of_both_ends_are_there():
    script = (ROOT / "script" / "test-versions").read_text(encoding="utf-8")
    named = re.findall(r"\btests/[\w./-]+", script)
    assert len(named) > 10
    assert [one for one in named if not (ROOT / one).exists()] == []
