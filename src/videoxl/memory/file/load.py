"""A memory from the file that :mod:`videoxl.memory.file.save` wrote; its whole header is checked before any is used."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from videoxl.errors import MemoryFileError
from videoxl.memory.file.codec import PLAIN, Codec
from videoxl.memory.file.format import MemoryFile
from videoxl.memory.file.layers import DENSE, POOLED, FileLayer, LevelLayout, Ranges, StoredLevel, StoredTensors
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import GroupLayout
from videoxl.memory.model_id import ModelCard
from videoxl.memory.pooling import PooledLevel, level_of
from videoxl.memory.spans import Group
from videoxl.memory.video_memory import Reader, Seen, Tail, VideoMemory

SMALL = ("token_ids", "timestamps", "group_seconds", "group_tokens", "tail_pixels", "siglip_features")
"""Tensors that are not keys or values; read when the file is opened."""


@dataclass(frozen=True)
class StoredMemory:
    """What a memory file says, keys and values aside."""

    file: MemoryFile
    card: ModelCard
    dtype: str
    """Of keys and values in the file."""
    held_dtype: torch.dtype
    """And of what they become when read."""
    offloaded: bool
    dense: LevelLayout
    pooled: dict[int, LevelLayout]
    token_ids: tuple[int, ...]
    prefix_length: int
    timestamps: tuple[float, ...]
    groups: tuple[Group, ...]
    prefill: str
    usage: dict[str, Any]
    warnings: tuple[str, ...]
    tail: Tail | None
    seen: Seen | None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> StoredMemory:
        """Raises :class:`MemoryFileError` for a file that is none, or damaged."""
        file = MemoryFile(path)
        with file.must_hold_together():
            return cls._from(file)

    @classmethod
    def _from(cls, file: MemoryFile) -> StoredMemory:
        said, storage, model = (json.loads(file.metadata[name]) for name in ("memory", "storage", "model"))
        card = ModelCard(**{name: model[name] for name in ModelCard.__dataclass_fields__})
        layout = partial(LevelLayout.of, card, Codec(storage["dtype"]))
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
            card=card,
            dtype=storage["dtype"],
            held_dtype=PLAIN[said["held_dtype"]],
            offloaded=bool(said["offloaded"]),
            dense=dense,
            pooled={int(name.removeprefix(POOLED)): level for name, level in levels.items()},
            token_ids=token_ids,
            prefix_length=said["prefix_length"],
            timestamps=timestamps,
            groups=tuple(Group(*time, *place) for time, place in zip(times, places, strict=True)),
            prefill=str(said["prefill"]),
            usage=dict(_tuples(said["usage"])),
            warnings=tuple(said["warnings"]),
            tail=None if pixels is None else Tail(pixels.numpy(), int(said["settled_tokens"])),
            seen=None if features is None else Seen(features, **said["siglip"]),
        )

    @property
    def complete(self) -> bool:
        """Whether every token is there in detail."""
        return self.dense.tokens == len(self.token_ids)

    def memory(self, model: Reader) -> VideoMemory:
        """As a memory of ``model``, with keys and values left in the file."""
        devices = model.layer_devices
        dense = StoredLevel(self.file, self.dense, len(self.token_ids), self.held_dtype, model.rotate)
        cache = KVCache(0)
        cache.layers = [FileLayer(dense, layer, device, host=self.offloaded) for layer, device in enumerate(devices)]
        return VideoMemory(
            cache=cache,
            token_ids=self.token_ids,
            prefix_length=self.prefix_length,
            groups=self.groups,
            timestamps=self.timestamps,
            prefill=self.prefill,
            model_fingerprint=self.card.fingerprint,
            usage=self.usage,
            warnings=self.warnings,
            tail=self.tail,
            seen=self.seen,
            reader=model,
            pooled={pool: self._pooled_level(pool, layout, devices) for pool, layout in self.pooled.items()},
        )

    def _pooled_level(self, pool: int, layout: LevelLayout, devices: Sequence[torch.device]) -> PooledLevel:
        level = StoredLevel(self.file, layout, layout.tokens, self.held_dtype, None)
        made = level_of(
            self.token_ids,
            GroupLayout.from_ids(self.token_ids, self.prefix_length, self.card.video_token_id),
            pool,
            StoredTensors(level, "keys", devices),
            StoredTensors(level, "values", devices),
            video_token_id=self.card.video_token_id,
        )
        if len(made) != layout.tokens:
            raise ValueError(f"{layout.name} has {layout.tokens} tokens, the ids ask for {len(made)}")
        return made


def load_memory(path: str | os.PathLike[str], model: Reader) -> VideoMemory:
    """See :meth:`VideoMemory.load`."""
    stored, card = StoredMemory.open(path), model.card
    if replace(stored.card, name=card.name) != card:
        raise MemoryFileError(
            f"{stored.file.path} was made by {stored.card}, this model is {card}: load the one that made it, or encode "
            "the video again",
            code="memory_mismatch",
        )
    with stored.file.must_hold_together():
        return stored.memory(model)


def _ascending(ranges: Sequence[Sequence[int]]) -> Ranges:
    """Blocks that follow each other, with gaps perhaps."""
    found = tuple((int(begin), int(end)) for begin, end in ranges)
    flat = [place for pair in found for place in pair]
    if not found or flat[0] < 0 or flat != sorted(flat) or any(begin == end for begin, end in found):
        raise ValueError("blocks are not in order")
    return found


def _tuples(value: Any) -> Any:
    """JSON knows no tuples; a memory's usage holds no lists."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
