"""The table of bad inputs names every case once, and tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
CASES = {"V": 38, "N": 22, "M": 12, "K": 14, "T": 6, "S": 26}
ROWS = dict(re.findall(r"^\| ([A-Z]\d\d) \| (.*) \|$", PAGE, flags=re.MULTILINE))


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_case_has_a_row_once():
    expected = [f"{kind}{number:02}" for kind, count in CASES.items() for number in range(1, count + 1)]
    assert re.findall(r"^\| ([A-Z]\d\d) ", PAGE, flags=re.MULTILINE) == expected


@pytest.mark.parametrize("case", ROWS)
def test_every_row_names_tests_that_exist(case):
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", ROWS[case].rpartition(" | ")[2])
    assert named
    assert [test for file, test in named if test not in names_in(file)] == []
    assert len(ROWS[case].split(" | ")) == 3


def test_codes_are_those_of_errors():
    source = TESTS.parent / "src" / "videoxl"
    told = [source / "errors.py", *(source / "server").rglob("*.py")]
    errors = "".join(path.read_text(encoding="utf-8") for path in told)
    codes = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", PAGE)) - {"auto_map", "trust_remote_code"}
    assert [code for code in sorted(codes) if f'"{code}"' not in errors] == []
