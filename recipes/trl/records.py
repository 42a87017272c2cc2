"""Read JSON lines of records for TRL: media are found beside the file, and contents become lists of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from videoxl.errors import TrainingDataError
from videoxl.hf.collator import COLUMNS
from videoxl.json_lines import read_json_lines

TURNS = ("messages", "prompt", "completion", "chosen", "rejected")


def read_records(path: str | Path) -> Dataset:
    """Every line is a record: ``{"messages": [...], "videos": ["a.mp4"]}``, or with ``prompt``, ``chosen`` and
    ``rejected``. Names of videos and images are relative to the file.

    Raises :class:`TrainingDataError` with the file and the line.
    """
    records = []
    for line, record in read_json_lines(path, TrainingDataError):
        turns = {name: _messages(record[name], name, Path(path).parent) for name in TURNS if record.get(name)}
        if not turns:
            raise TrainingDataError(f"{line.place} has none of {', '.join(TURNS)}")
        media: dict[str, list[str]] = {
            "images": [],
            "videos": [],
        }  # TRL takes a data set with "images" for one of media
        for column, kind in COLUMNS.items():
            value = record.get(column) or []
            media[f"{kind}s"] += [
                str(Path(path).parent / name) for name in (value if isinstance(value, list) else [value])
            ]
        records.append({**turns, **media})
    return Dataset.from_list(records)


def _messages(turns: Any, name: str, folder: Path) -> list[dict[str, Any]]:
    """Messages whose contents are lists of parts, since a column of a data set has one type."""
    if isinstance(turns, str):
        turns = [{"role": "user" if name == "prompt" else "assistant", "content": turns}]
    return [
        {
            **turn,
            "content": [{"type": "text", "text": turn["content"]}]
            if isinstance(turn["content"], str)
            else [_found(part, folder) for part in turn["content"]],
        }
        for turn in turns
    ]


def _found(part: dict[str, Any], folder: Path) -> dict[str, Any]:
    paths = {key: str(folder / part[key]) for key in ("path", "video", "image") if part.get(key)}
    return {**part, **paths}
