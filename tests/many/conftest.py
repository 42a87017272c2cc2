"""Six short films, and what is asked about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from videoxl.world import write_world


@dataclass(frozen=True)
class World:
    """A folder of films and the questions about each, with the right answers."""

    folder: Path
    questions: dict[str, dict[str, str]]
    """Name of a film -> question -> answer."""

    @property
    def answers(self) -> dict[tuple[str, str], str]:
        """(path of a film, question) -> answer."""
        return {
            (str(self.folder / film), text): answer
            for film, asked in self.questions.items()
            for text, answer in asked.items()
        }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Films of 12 seconds."""
    return make_world(tmp_path_factory.mktemp("world"), films=6)


def make_world(folder: Path, films: int) -> World:
    """Write films, and read back what may be asked about them."""
    records = json.loads(write_world(folder, films, groups=(3, 3), questions=3, size=96, seed=3).read_text())
    return World(folder / "videos", {Path(one["video"]).name: _asked(one["conversations"]) for one in records})


def _asked(turns: list[dict[str, str]]) -> dict[str, str]:
    texts = [turn["value"].removeprefix("<image>\n") for turn in turns]
    return dict(zip(texts[::2], texts[1::2]))


@pytest.fixture(scope="session")
def taught():
    """The embedded model, which knows the answers."""
    from videoxl import load

    return load("tiny", device="cpu")
