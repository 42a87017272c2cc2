"""Small files of training data, and what the tests need to read them."""

from __future__ import annotations

import json
from pathlib import Path

from tests import media
from videoxl.config import Sampling
from videoxl.training.data.dataset import DataConfig, VideoDataset
from videoxl.training.data.mixtures import Source


def said(*texts: str) -> list[dict]:
    """Turns of human and gpt, in turn."""
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def record(*texts: str, **fields) -> dict:
    return {**fields, "conversations": said(*texts)}


def write(path: Path, records: list) -> Path:
    """A JSON list, or JSON lines where the name says so."""
    lines = path.suffix == ".jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records) if lines else json.dumps(records), encoding="utf-8")
    return path


def video(folder: Path, name: str = "clip.mp4", frames: int = 16, fps: float = 2) -> str:
    """A short video of numbered frames; its name."""
    media.write_video(folder / name, frames=frames, fps=fps, size=(64, 48))
    return name


def dataset(
    folder: Path, records: list, model, *, prefill=None, features=None, name="data.json", **settings
) -> VideoDataset:
    """The records as a data set of ``model`` (a ``VideoXL``)."""
    path = write(folder / name, records)
    settings = {"sampling": Sampling(fps=2, max_frames=16), "sources": (Source(str(path)),), **settings}
    return VideoDataset(DataConfig(**settings), model.config, model.tokenizer, prefill=prefill, features=features)
