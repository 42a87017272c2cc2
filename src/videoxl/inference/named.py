"""Which model may be loaded on the word of a file: a memory names the model that made it, and may be a stranger's."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from videoxl.config import EMBEDDED
from videoxl.errors import CheckpointError
from videoxl.inference.loading import fingerprint_of, hub_place, parse_dtype, resolve, snapshot_revision
from videoxl.memory.model_id import ModelId
from videoxl.model.checkpoint import read_header, shard_files, to_native
from videoxl.model.folder import ModelFolder, built_without_memory
from videoxl.model.foreign import one_line, open_regular
from videoxl.model.videoxl import VideoXLForConditionalGeneration

STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
FIRST_VALUES = 16
"""Values of every weight that are part of a fingerprint."""


def model_named_by(made_by: ModelId, source: str) -> tuple[str, str | None]:
    """Name and revision of the model to load for a memory, when nobody named one.

    Only an embedded model, or one of the Hub's local cache with the fingerprint that the memory states, is loaded on a
    file's word. Raises :class:`CheckpointError` for any other. ``source``: what messages call the memory.
    """
    if made_by.name in EMBEDDED:
        return made_by.name, None

    def fingerprint(folder: Path) -> str:
        planned = built_without_memory(
            VideoXLForConditionalGeneration, ModelFolder.open(folder).config, f"config.json of {folder.name}"
        )
        return fingerprint_of_files(planned, folder, parse_dtype(made_by.dtype))

    found = cached_model(made_by.name, made_by.revision, made_by.fingerprint, fingerprint)
    if found is None:
        raise CheckpointError(
            f"{source} was made by {one_line(made_by.name, 80)}, which is not embedded, and not in the local cache "
            "with the same weights; no model is fetched or loaded on a file's word: give it with --model"
        )
    return made_by.name, snapshot_revision(found)


def cached_model(
    name: str, revision: str | None, fingerprint: str, fingerprint_of_folder: Callable[[Path], str]
) -> Path | None:
    """The snapshot of a Hub id in the local cache that has a fingerprint; None if there is none. Nothing is fetched."""
    if hub_place(name) is None:
        return None
    for commit in dict.fromkeys((revision, None)):
        try:
            folder = resolve(name, commit, local_files_only=True)
            if fingerprint_of_folder(folder) == fingerprint:
                return folder
        except (CheckpointError, ValueError):
            continue  # not there, or not whole: it is not the model that is looked for
    return None


def fingerprint_of_files(planned: nn.Module, folder: Path, dtype: torch.dtype | None) -> str:
    """The fingerprint that a model would have once it is loaded from a folder, from its headers and a few bytes each.

    ``planned``: the model without its weights. ``dtype``: the one it would be loaded in; None: as they are stored.
    Raises :class:`CheckpointError` where a weight is missing.
    """
    planned.tie_weights()  # type: ignore[operator]
    heads: dict[str, torch.Tensor] = {}
    for shard in shard_files(folder):
        heads.update(_heads(shard))

    def entries() -> Iterator[tuple[str, tuple[int, ...], torch.dtype, torch.Tensor]]:
        for name, parameter in planned.named_parameters():
            if name not in heads:
                raise CheckpointError(f"{folder.name} lacks {name}")
            head = heads[name] if dtype is None else heads[name].to(dtype)
            yield name, tuple(parameter.shape), head.dtype, head

    return fingerprint_of(entries())


def _heads(shard: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The first values of every weight in a file, by our names."""
    header = read_header(shard)
    with open(open_regular(shard), "rb") as file:
        begin = 8 + struct.unpack("<Q", file.read(8))[0]
        for name, entry in header.items():
            if entry["dtype"] in STORED:
                dtype = STORED[entry["dtype"]]
                start, end = entry["data_offsets"]
                file.seek(begin + start)
                data = bytearray(file.read(min(end - start, FIRST_VALUES * dtype.itemsize)))
                yield to_native(name), torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
