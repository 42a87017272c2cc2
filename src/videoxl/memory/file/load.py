"""Load a memory that :mod:`videoxl.memory.file.save` wrote. The whole header is checked before any of it is used."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from videoxl.cues import Track
from videoxl.cues_json import tracks_from_json
from videoxl.errors import MemoryFileError
from videoxl.memory.file.codec import PLAIN, Codec
from videoxl.memory.file.facts import (
    MemoryFacts,
    Siglip,
    StorageFacts,
    check_times,
    check_tokens,
    check_usage,
    pending_frames,
    read_groups,
    read_positions,
    read_small,
)
from videoxl.memory.file.format import VERSION, MemoryFile
from videoxl.memory.file.layers import (
    DENSE,
    POOLED,
    FileLayer,
    LevelLayout,
    PackedFileLayer,
    Ranges,
    StoredLevel,
    StoredTensors,
)
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import Group, GroupLayout
from videoxl.memory.model_id import ModelId
from videoxl.memory.pooling import CoarseKV, coarse_kv_of
from videoxl.memory.positions import Positions
from videoxl.memory.quantised import packed_bytes
from videoxl.memory.types import FrameEmbeddings, MemoryOwner, MemoryState, PendingFrames, ReadStats
from videoxl.settings import from_json

UNIT = 0.02
"""How far the length of a unit vector may be from 1: features may have been computed in bfloat16."""


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
    tracks: tuple[Track, ...]
    positions: Positions | None
    """Of every token, where it is not the index."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> StoredMemory:
        """Open a file. Raises :class:`MemoryFileError` when it is no memory, or damaged."""
        file = MemoryFile(path)
        with file.must_hold_together():
            return cls._from(file)

    @classmethod
    def _from(cls, file: MemoryFile) -> StoredMemory:
        model_id = from_json(ModelId, file.metadata["model"], "model")
        facts = from_json(MemoryFacts, file.metadata["memory"], "memory")
        storage = from_json(StorageFacts, file.metadata["storage"], "storage")
        levels = read_levels(file, model_id, storage)
        dense, coarse = levels.pop(DENSE), {_pool_of(name): level for name, level in levels.items()}
        small = read_small(file)
        if ("positions" in small) != (file.metadata["version"] == str(VERSION)):
            raise ValueError(f"version {file.metadata['version']} and positions do not belong together")
        ids, timestamps = tuple(small["token_ids"].tolist()), small["timestamps"].numpy()
        groups = read_groups(small["group_seconds"], small["group_tokens"])
        features = small.get("siglip_features")
        if dense.ranges[-1][1] != len(ids) or (dense.tokens < len(ids) and not coarse):
            raise ValueError(f"blocks and ids disagree about the {len(ids)} tokens")
        check_times(timestamps, "frames are shown")
        check_tokens(facts, ids, groups, model_id.video_token_id)
        check_usage(
            facts.usage,
            frames=len(timestamps),
            groups=groups,
            tokens=len(ids),
            memory_bytes=held_bytes(model_id, facts, len(ids)),
        )
        if len(groups) > len(timestamps):
            raise ValueError(f"there are {len(groups)} groups of {len(timestamps)} frames")
        return cls(
            file=file,
            model_id=model_id,
            dtype=storage.dtype,
            held_dtype=PLAIN[facts.held_dtype],
            offloaded=facts.offloaded,
            dense=dense,
            coarse=coarse,
            token_ids=ids,
            prefix_length=facts.prefix_length,
            timestamps=tuple(timestamps.tolist()),
            groups=groups,
            prefill=facts.prefill,
            usage=facts.usage,
            warnings=facts.warnings,
            pending=pending_frames(small.get("tail_pixels"), facts, groups, frames=len(timestamps)),
            embeddings=embeddings_of(features, facts.siglip, frames=len(timestamps)),
            tracks=tracks_from_json(small["tracks"].numpy().tobytes()) if "tracks" in small else (),
            positions=read_positions(small.get("positions"), len(ids)),
        )

    @property
    def complete(self) -> bool:
        """Whether the file holds every token in detail."""
        return self.dense.tokens == len(self.token_ids)

    def state(self, model: MemoryOwner) -> MemoryState:
        """Make the state of a memory of ``model``; keys and values stay in the file until they are asked for."""
        devices = model.layer_devices
        positions = self.positions
        dense = StoredLevel(self.file, self.dense, len(self.token_ids), self.held_dtype, model.rope, positions)
        if self.usage.kv_dtype:
            packed = model.quantisations(self.usage.kv_dtype)
            layers = [PackedFileLayer.at(dense, n, device, how) for n, (device, how) in enumerate(zip(devices, packed))]
            cache = KVCache(layers)
        else:
            cache = KVCache([FileLayer.at(dense, n, device, host=self.offloaded) for n, device in enumerate(devices)])
        return MemoryState(
            cache=cache.placed(positions),
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
            tracks=self.tracks,
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
            positions=self.positions,
        )
        if len(made) != layout.tokens:
            raise ValueError(f"{layout.name} has {layout.tokens} tokens, the ids ask for {len(made)}")
        return made


def held_bytes(model_id: ModelId, facts: MemoryFacts, tokens: int) -> int:
    """Bytes of the keys and values in memory."""
    if facts.usage.kv_dtype:
        return model_id.layers * packed_bytes(tokens, model_id.heads, model_id.head_width)
    return 2 * tokens * model_id.layers * model_id.heads * model_id.head_width * PLAIN[facts.held_dtype].itemsize


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
        state = stored.state(model)
        model.check_stored(state)
    return state


def read_levels(file: MemoryFile, model_id: ModelId, storage: StorageFacts) -> dict[str, LevelLayout]:
    """Lay out the levels. Raises ``ValueError`` unless their tensors are in the file and have their shapes."""
    layout = partial(LevelLayout.of, model_id, Codec(storage.dtype))
    levels = {name: layout(name, _ascending(ranges)) for name, ranges in storage.levels.items()}
    if DENSE not in levels or (len(levels) > 1 and not model_id.two_levels):
        raise ValueError(f"a memory of this model has no levels like {', '.join(levels) or 'none'}")
    for level in levels.values():
        for spec in level.specs():
            if file.spec(spec.name) != spec:
                raise ValueError(f"{spec.name} has another form than the rest says")
    return levels


def _ascending(ranges: Ranges) -> Ranges:
    """Check that blocks follow each other from 0 on; gaps between them are allowed."""
    flat = [place for pair in ranges for place in pair]
    if not ranges or flat[0] != 0 or flat != sorted(flat) or any(begin == end for begin, end in ranges):
        raise ValueError("blocks are not in order")
    return ranges


def _pool_of(name: str) -> int:
    """Tokens averaged into one, of a level by its name."""
    found = re.fullmatch(POOLED + "([1-9][0-9]{0,5})", name)
    if found is None:
        raise ValueError(f"there is no level {name!r}")
    return int(found[1])


def embeddings_of(features: torch.Tensor | None, siglip: Siglip | None, *, frames: int) -> FrameEmbeddings | None:
    """What SigLIP saw. Raises ``ValueError`` unless it is a unit vector for each frame, and the model is named."""
    if (features is None) != (siglip is None):
        raise ValueError("siglip_features and the SigLIP model do not belong together")
    if features is None or siglip is None:
        return None
    if len(features) != frames:
        raise ValueError(f"SigLIP saw {len(features)} of {frames} frames")
    if not (features.norm(dim=1) - 1).abs().max() < UNIT:
        raise ValueError("siglip_features are no unit vectors")
    return FrameEmbeddings(features, siglip.model, siglip.fingerprint)
