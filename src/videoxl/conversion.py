"""``videoxl convert``: checkpoints from one layout to the other, the embedded model included."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from videoxl.config import EMBEDDED

LAYOUTS = ("videoxl", "released")


def convert_checkpoint(source: str, target: str, to: str) -> dict[str, Any]:
    """Rewrite ``source`` (a folder in either layout, or an embedded model) as a new folder ``target`` in layout ``to``.

    Raises ``ValueError`` for an unknown layout, ``FileExistsError`` when ``target`` exists, ``CheckpointError`` for a
    damaged source. Nothing is left behind on failure.
    """
    from videoxl.model.conversion import convert

    if to not in LAYOUTS:
        raise ValueError(f"unknown layout {to!r}; allowed: {', '.join(LAYOUTS)}")
    if Path(target).exists():
        raise FileExistsError(f"{target} exists; give a new folder")
    if source not in EMBEDDED or Path(source).exists():
        return convert(source, target, to)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="videoxl-tiny-") as scratch:
        folder = Path(scratch) / source
        save_tiny(folder, source)
        return convert(folder, target, to)  # type: ignore[arg-type]


def save_tiny(folder: Path, name: str = "tiny") -> None:
    """Write an embedded model as a checkpoint with tokenizer and processor, in our layout."""
    from videoxl.inference.processing import VideoXLProcessor
    from videoxl.model.conversion import write_manifest
    from videoxl.model.tiny import tiny_model, tiny_tokenizer

    model, tokenizer = tiny_model(name=name), tiny_tokenizer()
    model.save_pretrained(folder)
    VideoXLProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
    write_manifest(folder)
