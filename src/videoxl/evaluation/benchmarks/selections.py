"""The released selections of bi-level decoding: which blocks of a video each question reads densely."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from videoxl.config import BiLevelDecode, DenseDecode, FullPrefill
from videoxl.inference.decode.released_units import read_selections


@dataclass
class Selections:
    """The selections of one benchmark, by the names that the released evaluation gives its questions.

    A question that the files do not name is read in full, without chunks, as the released evaluation does it; so are
    the categories whose entry is empty. :attr:`counts` says how many questions were named.
    """

    by_id: dict[str, BiLevelDecode | DenseDecode]
    counts: dict[str, int] = field(default_factory=lambda: {"named": 0, "not_named": 0})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Selections:
        """Read a file, or all files of a folder (``videomme/``, ``lvbench/``). Raises ``ValueError`` for others."""
        given = Path(path)
        files = sorted(given.glob("*.json")) if given.is_dir() else [given]
        if not files:
            raise ValueError(f"--selections {path}: the folder holds no .json file")
        found: dict[str, BiLevelDecode | DenseDecode] = {}
        for file in files:
            found |= read_selections(file)
        return cls(found)

    def of(self, unique_id: str) -> tuple[FullPrefill | None, BiLevelDecode | DenseDecode]:
        """Return prefill and decode strategy of a question. Prefill None is that of the run."""
        decode = self.by_id.get(unique_id)
        self.counts["not_named" if decode is None else "named"] += 1
        return (FullPrefill(), DenseDecode()) if decode is None else (None, decode)
