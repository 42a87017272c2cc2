"""Write samples as Parquet, for data frames; without ``pyarrow`` the JSON lines beside them are all there is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from videoxl.evaluation.log import Json, write_bytes


def write_parquet(path: Path, samples: Sequence[Json]) -> str | None:
    """Write one row per sample; objects become columns (``categories.task_type``). Return why it was not written.

    Raises :class:`EvaluationError` if the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        return f"{path.name} was not written: pip install 'videoxl[parquet]'"
    rows = [_flat(sample) for sample in samples]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    write_bytes(path, buffer.getvalue())
    return None


def _flat(value: Json, prefix: str = "") -> Json:
    flat: Json = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[prefix + name] = inner
    return flat
