"""The guides are true: their code runs, their links lead somewhere, and their commands exist."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from tests.guide import problem_of
from videoxl.cli.convert import convert_checkpoint
from videoxl.cli.demo import write_demo
from videoxl.cli.main import app

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*GUIDES, *sorted(ROOT.glob("*.md"))]
EMBEDDED = {"beacon.md": "tiny-v1"}
"""Guide -> the embedded model that its ``checkpoint`` is."""
SUBTITLES = "1\n00:00:33,000 --> 00:00:35,000\nHello there.\n"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code(guide: Path) -> str:
    """All its Python, as one script."""
    return "\n".join(re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL))


@pytest.mark.slow
@pytest.mark.parametrize("guide", [g for g in GUIDES if code(g)], ids=name)
def test_the_code_runs(guide: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "film.mp4")
    (tmp_path / "film.srt").write_text(SUBTITLES)
    noise = np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    convert_checkpoint(EMBEDDED.get(guide.name, "tiny"), str(tmp_path / "checkpoint"), "released")
    assert problem_of(code(guide), tmp_path) is None


# ------------------------------------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# ---------------------------------------------------------------------------------------------------------- commands


def commands(page: Path) -> list[list[str]]:
    """The ``videoxl`` commands of a page's shell blocks, split into words."""
    blocks = re.findall(r"```(?:shell|sh)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("videoxl") + 1 :] for line in words if "videoxl" in line and "--model_args" not in line]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_and_options_exist(page: Path) -> None:
    for words in commands(page):
        command = typer.main.get_command(app)
        rest = list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        assert not hasattr(command, "commands"), f"no such command: videoxl {shlex.join(words)}"
        known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        unknown = [word for word in rest if word.startswith("-") and word.split("=")[0] not in known]
        assert unknown == [], f"no such option: videoxl {shlex.join(words)}"


@pytest.mark.parametrize("name", ["cli_reference", "api_reference"])
def test_a_written_reference_is_up_to_date(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / "script" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    current = module.PAGE.read_text(encoding="utf-8") == module.reference()
    assert current, f"{module.PAGE.name} is out of date: run .venv/bin/python script/{name}.py"


# ----------------------------------------------------------------------------------------------------------- figures


@pytest.mark.slow
def test_the_table_of_predictions_is_what_plan_says() -> None:
    """In docs/quickstart.md; nothing is downloaded, the sizes of released models are known."""
    import videoxl

    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    rows = [re.sub("[`,]", "", row).strip("| ").split(" | ") for row in re.findall(r"^\| `\S+/.*$", text, re.MULTILINE)]
    assert len(rows) == 6
    for model, prefill, frames, *shown in rows:
        film = np.zeros((int(frames), 8, 8, 3), np.uint8)
        plan = videoxl.plan(film, fps=1, max_frames=len(film), model=model, device="h200", prefill=prefill)
        sizes = (plan.weight_bytes, plan.memory_bytes, plan.total_bytes)
        assert shown == [str(plan.memory_tokens), *(f"{size / 1e9:.1f}" for size in sizes)]


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.slow
def test_the_names_in_the_text_exist() -> None:
    """``videoxl.memory.file.codec`` and the like, written as code in a sentence."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES if page.name != "CHANGELOG.md"]
    names = {found for text in texts for found in re.findall(r"`(videoxl(?:\.\w+)+)[`(]", text)} - {"videoxl.toml"}
    assert names
    missing = [name for name in sorted(names) if not exists(name)]
    assert missing == []


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    found: object = importlib.import_module("videoxl")
    for number, part in enumerate(name.split(".")[1:], 2):
        module = ".".join(name.split(".")[:number])
        if not hasattr(found, part) and importlib.util.find_spec(module) is not None:
            found = importlib.import_module(module)
        elif hasattr(found, part):
            found = getattr(found, part)
        else:
            return False
    return True


def test_guides_that_sources_name_exist() -> None:
    sources = [path for folder in ("src", "tests", "benchmarks", "recipes") for path in (ROOT / folder).rglob("*.py")]
    named = {(path, guide) for path in sources for guide in re.findall(r"docs/[\w/-]+\.md", path.read_text("utf-8"))}
    assert [(path, guide) for path, guide in sorted(named) if not (ROOT / guide).exists()] == []
