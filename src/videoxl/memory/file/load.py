"""Load a memory that :mod:`videoxl.memory.file.save` wrote. The whole header is checked before any of it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from videoxl.errors import MemoryFileError
from videoxl.memory.file.codec import PLAIN, Codec
from videoxl.memory.file.format import MemoryFile
from videoxl.memory.file.layers import DENSE, POOLED, FileLayer, LevelLayout, Ranges, StoredLevel, StoredTensors
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import Group, GroupLayout
from videoxl.memory.model_id import ModelId
from videoxl.memory.pooling import CoarseKV, coarse_kv_of
from videoxl.memory.types import FrameEmbeddings, MemoryOwner, MemoryState, PendingFrames, ReadStats

SMALL = ("token_ids", "timestamps", "group_seconds", "group_tokens", "tail_pixels", "siglip_features")
"""Tensors that are not keys or values; read when the file is opened."""


@dataclass(frozen=True)
class StoredMemory:
    """The content of a memory file except keys and values, which stay in it."""

    file: MemoryFile
    model_id: ModelId
    dtype: str
    """Dtype of keys and values in the file."""
    held_dtype: torch.dtype
    """Dtype they are converted to when they are read."""
    offloaded: bool
    dense: LevelLayout
    coarse: dict[int, LevelLayout]
    """Averages in the file, by the number of tokens averaged into one."""
    token_ids: tuple[int, ...]
    prefix_length: int
    timestamps: tuple[float, ...]
    groups: tuple[Group, ...]
    prefill: str
    usage: ReadStats
    warnings: tuple[str, ...]
    pending: PendingFrames | None
    embeddings: FrameEmbeddings | None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> StoredMemory:
        """Open a file. Raises :class:`MemoryFileError` when it is no memory, or damaged."""
        file = MemoryFile(path)
        with file.must_hold_together():
            return cls._from(file)

    @classmethod
    def _from(cls, file: MemoryFile) -> StoredMemory:
        said, storage, model = (json.loads(file.metadata[name]) for name in ("memory", "storage", "model"))
        model_id = ModelId(**{name: model[name] for name in ModelId.__dataclass_fields__})
        layout = partial(LevelLayout.of, model_id, Codec(storage["dtype"]))
        levels = {str(name): layout(str(name), _ascending(ranges)) for name, ranges in storage["levels"].items()}
        dense = levels.pop(DENSE)
        small = {name: file.read(name) for name in SMALL if name in file}
        token_ids = tuple(int(i) for i in small["token_ids"].tolist())
        if dense.ranges[-1][1] != len(token_ids) or not 0 <= said["prefix_length"] <= len(token_ids):
            raise ValueError(f"blocks and ids disagree about the {len(token_ids)} tokens")
        pixels, features = small.get("tail_pixels"), small.get("siglip_features")
        timestamps = tuple(small["timestamps"].tolist())
        if features is not None and len(features) != len(timestamps):
            raise ValueError(f"SigLIP saw {len(features)} of {len(timestamps)} frames")
        times, places = small["group_seconds"].tolist(), small["group_tokens"].tolist()
        return cls(
            file=file,
            model_id=model_id,
            dtype=storage["dtype"],
            held_dtype=PLAIN[said["held_dtype"]],
            offloaded=bool(said["offloaded"]),
            dense=dense,
            coarse={int(name.removeprefix(POOLED)): level for name, level in levels.items()},
            token_ids=token_ids,
            prefix_length=said["prefix_length"],
            timestamps=timestamps,
            groups=tuple(Group(*time, *place) for time, place in zip(times, places, strict=True)),
            prefill=str(said["prefill"]),
            usage=ReadStats.from_dict(said["usage"]),
            warnings=tuple(said["warnings"]),
            pending=None if pixels is None else PendingFrames(pixels.numpy(), int(said["settled_tokens"])),
            embeddings=None if features is None else FrameEmbeddings(features, **said["siglip"]),
        )

    @property
    def complete(self) -> bool:
        """Whether the file holds every token in detail."""
        return self.dense.tokens == len(self.token_ids)

    def state(self, model: MemoryOwner) -> MemoryState:
        """Make the state of a memory of ``model``; keys and values stay in the file until they are asked for."""
        devices = model.layer_devices
        dense = StoredLevel(self.file, self.dense, len(self.token_ids), self.held_dtype, model.rope)
        cache = KVCache([FileLayer.at(dense, n, device, host=self.offloaded) for n, device in enumerate(devices)])
        return MemoryState(
            cache=cache,
            token_ids=self.token_ids,
            prefix_length=self.prefix_length,
            groups=self.groups,
            timestamps=self.timestamps,
            prefill=self.prefill,
            model_fingerprint=self.model_id.fingerprint,
            usage=self.usage,
            warnings=self.warnings,
            pending=self.pending,
            embeddings=self.embeddings,
            coarse_kv={pool: self._coarse_kv(pool, layout, devices) for pool, layout in self.coarse.items()},
        )

    def _coarse_kv(self, pool: int, layout: LevelLayout, devices: Sequence[torch.device]) -> CoarseKV:
        level = StoredLevel(self.file, layout, layout.tokens, self.held_dtype, None)
        made = coarse_kv_of(
            self.token_ids,
            GroupLayout.from_ids(self.token_ids, self.prefix_length, self.model_id.video_token_id),
            pool,
            StoredTensors(level, "keys", devices),
            StoredTensors(level, "values", devices),
            video_token_id=self.model_id.video_token_id,
        )
        if len(made) != layout.tokens:
            raise ValueError(f"{layout.name} has {layout.tokens} tokens, the ids ask for {len(made)}")
        return made


def load_memory(path: str | os.PathLike[str], model: MemoryOwner) -> MemoryState:
    """Load the state of a memory; see ``VideoMemory.load``."""
    stored, wanted = StoredMemory.open(path), model.model_id
    if replace(stored.model_id, name=wanted.name) != wanted:
        raise MemoryFileError(
            f"{stored.file.path} was made by {stored.model_id}, this model is {wanted}: load the one that made it, "
            "or encode the video again",
            code="memory_mismatch",
        )
    with stored.file.must_hold_together():
        return stored.state(model)


def _ascending(ranges: Sequence[Sequence[int]]) -> Ranges:
    """Check that blocks follow each other; gaps between them are allowed."""
    found = tuple((int(begin), int(end)) for begin, end in ranges)
    flat = [place for pair in found for place in pair]
    if not found or flat[0] < 0 or flat != sorted(flat) or any(begin == end for begin, end in found):
        raise ValueError("blocks are not in order")
    return found
