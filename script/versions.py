"""Versions of other people's libraries: what pyproject.toml allows, what constraints.txt pins, what is installed.

python script/versions.py kept          # constraints: torch and torchvision as installed
python script/versions.py oldest test   # constraints: these and, of the base and the extra, the lower ends
python script/versions.py moved         # one line: what is installed in another version than constraints.txt says
python script/versions.py blame FOLDER  # one line: which library, put back, lets the first failed test pass
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
KEPT = ("torch", "torchvision")
"""Five GB: they stay as they are in .venv. CONTRIBUTING.md says how their ends are tested."""


def declared(*extras: str) -> list[Requirement]:
    """The requirements of the package and of these extras; one extra may name others of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    waiting, taken = list(extras), set[str]()
    while waiting:
        if (extra := waiting.pop()) in taken:
            continue
        taken.add(extra)
        for text in project["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if requirement.name == project["name"]:
                waiting += requirement.extras
            else:
                found.append(requirement)
    return found


def lower_end(requirement: Requirement) -> str:
    """The version behind ``>=``. Raises :class:`ValueError` if there is none."""
    ends = [one.version for one in requirement.specifier if one.operator == ">="]
    if len(ends) != 1:
        raise ValueError(f"pyproject.toml: {requirement} needs one lower end, as in {requirement.name}>=1.0")
    return ends[0]


def pins(path: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """Canonical name to version."""
    lines = re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def installed(name: str) -> str | None:
    """The version that would be imported here."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def moved() -> dict[str, tuple[str, str]]:
    """Pinned and installed version of what is installed in another version than pinned."""
    here = {name: (pinned, installed(name)) for name, pinned in pins().items()}
    return {name: (pinned, found) for name, (pinned, found) in here.items() if found and found != pinned}


def kept() -> list[str]:
    """Constraint lines that leave torch alone."""
    return [f"{name}=={installed(name)}" for name in KEPT]


def oldest(*extras: str) -> list[str]:
    """Constraint lines for the lower end of every range."""
    wanted = [one for one in declared(*extras) if one.name not in KEPT and (not one.marker or one.marker.evaluate())]
    return kept() + [f"{one.name}=={lower_end(one)}" for one in wanted]


def blame(folder: Path) -> str:
    """Repeat the first failed test with one direct dependency at a time as pinned; ``folder`` holds pytest's cache."""
    told = folder / "cache/v/cache/lastfailed"
    if not told.exists():
        return "no test was run"
    failed = list(json.loads(told.read_text(encoding="utf-8")))[:1]
    if not failed:
        return "no test failed"
    direct = {canonicalize_name(one.name) for one in declared("dev", "torchao")}
    for name, (pinned, found) in moved().items():
        back = folder / "back" / name
        if name in direct and _put_back(back, f"{name}=={pinned}") and _passes(failed[0], back):
            return f"{failed[0]} passes with {name} {pinned} instead of {found}"
    return f"{failed[0]} passes with no single library put back"


def _put_back(folder: Path, pin: str) -> bool:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    return subprocess.run([*pip, "--target", str(folder), pin], capture_output=True).returncode == 0


def _passes(test: str, first: Path) -> bool:
    """Whether a test passes with what lies in this folder imported first."""
    path = os.pathsep.join([str(first), *filter(None, [os.environ.get("PYTHONPATH")])])
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:schemathesis", test]
    return subprocess.run(pytest, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True).returncode == 0


def main(command: str, *rest: str) -> None:
    if command == "kept":
        print(*kept(), sep="\n")
    elif command == "oldest":
        print(*oldest(*rest), sep="\n")
    elif command == "moved":
        print(", ".join(f"{name} {pinned} -> {found}" for name, (pinned, found) in moved().items()) or "nothing")
    elif command == "blame":
        print(blame(Path(rest[0])))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
