"""``videoxl convert``: rewrite a checkpoint, or an embedded model, in the other layout."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from videoxl.cli.info import Facts
from videoxl.config import EMBEDDED

LAYOUTS = ("videoxl", "released")


def convert_checkpoint(source: str, target: str, to: str) -> Facts:
    """Rewrite ``source`` (a folder in either layout, or an embedded model) as a new folder ``target`` in layout ``to``.

    Raises ``ValueError`` for an unknown layout, ``FileExistsError`` when ``target`` exists, ``CheckpointError`` for a
    damaged source. Nothing is left behind on failure.
    """
    from videoxl.inference.loading import embedded_folder
    from videoxl.model.checkpoint import Layout
    from videoxl.model.convert import convert

    if to not in LAYOUTS:
        raise ValueError(f"unknown layout {to!r}; allowed: {', '.join(LAYOUTS)}")
    if Path(target).exists():
        raise FileExistsError(f"{target} exists; give a new folder")
    embedded = source in EMBEDDED and not Path(source).exists()
    return dict(convert(embedded_folder(source) if embedded else source, target, cast(Layout, to)))
