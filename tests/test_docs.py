"""The code of the guides runs as it stands there, and their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videoxl.cli.convert import convert_checkpoint
from videoxl.cli.demo import write_demo

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
EMBEDDED = {"beacon.md": "tiny-v1"}
"""Guide -> the embedded model that its ``checkpoint`` is."""


def code(guide: Path) -> str:
    """All its Python, as one script."""
    return "\n".join(re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL))


@pytest.mark.slow
@pytest.mark.parametrize("guide", [g for g in GUIDES if code(g)], ids=lambda guide: guide.name)
def test_the_code_runs(guide: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "film.mp4")
    noise = np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    convert_checkpoint(EMBEDDED.get(guide.name, "tiny"), str(tmp_path / "checkpoint"), "released")
    result = subprocess.run(
        [sys.executable, "-c", code(guide)], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_links_lead_somewhere(guide: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", guide.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (guide.parent / link).exists(), link
