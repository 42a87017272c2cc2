"""``videoxl convert``: checkpoints from one layout to the other, the embedded models included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videoxl.config import EMBEDDED

LAYOUTS = ("videoxl", "released")


def convert_checkpoint(source: str, target: str, to: str) -> dict[str, Any]:
    """Rewrite ``source`` (a folder in either layout, or an embedded model) as a new folder ``target`` in layout ``to``.

    Raises ``ValueError`` for an unknown layout, ``FileExistsError`` when ``target`` exists, ``CheckpointError`` for a
    damaged source. Nothing is left behind on failure.
    """
    from videoxl.inference.loading import embedded_folder
    from videoxl.model.convert import convert

    if to not in LAYOUTS:
        raise ValueError(f"unknown layout {to!r}; allowed: {', '.join(LAYOUTS)}")
    if Path(target).exists():
        raise FileExistsError(f"{target} exists; give a new folder")
    embedded = source in EMBEDDED and not Path(source).exists()
    return convert(embedded_folder(source) if embedded else source, target, to)  # type: ignore[arg-type]
