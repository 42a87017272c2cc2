"""Released selections: which parts of a video were read densely in the published evaluations (SPEC 3.7).

They were made elsewhere, by comparing question and frames, and published as JSON files: per category of a benchmark
either ``null`` or settings and, per question, numbers of units of eight frames. Read here to repeat those runs.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from videoxl.config import BiLevelDecode, DenseDecode, FullPrefill

GROUPS_PER_UNIT = 2
"""A unit is eight frames: two groups."""


@dataclass(frozen=True)
class ReleasedUnits:
    """Units that a released file names for one question, as a ``relevance``."""

    units: tuple[int, ...]
    block_size: int
    """Groups per block (``selected_chunk_size``)."""

    @property
    def label(self) -> str:
        return f"{len(self.units)} released units"

    def blocks(self) -> tuple[int, ...]:
        """Numbers from 0 of the blocks they lie in. A block of odd size holds half units: 2.5 units for 5 groups."""
        return tuple(sorted({int(unit // (self.block_size / GROUPS_PER_UNIT)) for unit in self.units}))

    def __call__(self, memory: Any, question: str) -> list[float]:
        """1 for the blocks named, 0 for the others."""
        count = -(-len(memory.groups) // self.block_size)
        return [float(number in self.blocks()) for number in range(count)]


class ReleasedSelection(NamedTuple):
    """How a published run read one question's video."""

    prefill: FullPrefill | None
    """None: chunked, with the numbers of that evaluation. Otherwise the file switched chunks off as well."""
    decode: BiLevelDecode | DenseDecode


def released_selection(path: str | os.PathLike[str], unique_id: str, category: str | None = None) -> ReleasedSelection:
    """Read one question's selection from a released file.

    ``category``: where in the file to look; default wherever ``unique_id`` is found. A category that is ``null`` means
    plain causal attention, without chunks and with everything dense; an empty selection means everything dense.
    Raises ``ValueError`` for a file of another form, and for a category or question that is not in it.
    """
    found = _read(Path(path))
    if category is not None and category not in found:
        raise ValueError(f"{path} has no category {category!r}; it has {', '.join(found)}")
    names = [category] if category is not None else [n for n, c in found.items() if c and unique_id in _indices(c)]
    if len(names) != 1:
        where = f"in {len(names)} categories" if names else "nowhere"
        raise ValueError(f"question {unique_id!r} is {where} in {path}: give one of its categories, {', '.join(found)}")
    chosen = found[names[0]]
    if chosen is None:
        return ReleasedSelection(FullPrefill(), DenseDecode())
    if unique_id not in _indices(chosen):
        raise ValueError(f"category {names[0]!r} of {path} has no question {unique_id!r}")
    return ReleasedSelection(None, decode_of(_indices(chosen)[unique_id], chosen["config"]))


def read_selections(path: str | os.PathLike[str]) -> dict[str, BiLevelDecode | DenseDecode]:
    """Read a whole released file: the decode strategy of every question that it names, in all categories.

    Raises ``ValueError`` for a file of another form.
    """
    chosen = [one for one in _read(Path(path)).values() if one is not None]
    return {name: decode_of(units, one["config"]) for one in chosen for name, units in _indices(one).items()}


def decode_of(units: list[int], config: dict[str, Any]) -> BiLevelDecode | DenseDecode:
    """The strategy of a list of units and the ``config`` beside it."""
    if not units:
        return DenseDecode()
    block_size = int(config["selected_chunk_size"])
    relevance = ReleasedUnits(tuple(sorted({int(u) for u in units})), block_size)
    return BiLevelDecode(
        top_k=len(relevance.units), block_size=block_size, pool=int(config["compression"]), relevance=relevance
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for chosen in found.values():
            if chosen is not None:
                _indices(chosen), int(chosen["config"]["selected_chunk_size"]), int(chosen["config"]["compression"])
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"{path} is no released selection ({type(error).__name__}: {error}): expected categories with 'config' and "
            "'selected_unit_indices', or null"
        ) from None
    return dict(found)


def _indices(chosen: dict[str, Any]) -> dict[str, list[int]]:
    return dict(chosen["selected_unit_indices"])
