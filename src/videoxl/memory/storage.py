"""A whole memory in one file, and back (the format: docs/memory.md).

Keys and values are written level by level in blocks of tokens (:mod:`videoxl.memory.file_layers`), everything else in a
few small tensors and in the metadata.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch

from videoxl.config import BiLevelDecode
from videoxl.errors import MemoryFileError
from videoxl.memory.atomic import replacing
from videoxl.memory.blocks import PooledLevel, level_of, make_pooled
from videoxl.memory.card import ModelCard
from videoxl.memory.chunks import GroupLayout
from videoxl.memory.file_layers import BOTH, FileLayer, LevelLayout, StoredLevel, StoredTensors, part_name
from videoxl.memory.kv_cache import KVCache, Which
from videoxl.memory.memory_file import MemoryFile, MemoryFileWriter, TensorSpec
from videoxl.memory.quantisation import PLAIN, Codec, codec_for
from videoxl.memory.spans import Group
from videoxl.memory.stores import HostLayer
from videoxl.memory.video_memory import Reader, Tail, VideoMemory

DENSE = "dense"
BLOCK_GROUPS = BiLevelDecode().block_size
"""Groups in a block of the dense level: what a bi-level question reads in one piece."""
BLOCK_TOKENS = 1024
"""Tokens in a block where there are no groups."""
POOLED_TOKENS = 4096
"""Tokens in a block of the averaged level, which is always read whole."""
POOL = BiLevelDecode().pool
SMALL = ("token_ids", "timestamps", "group_seconds", "group_tokens", "tail_pixels")
"""Tensors that are not keys or values."""


# ------------------------------------------------------------------------------------------------------------- saving


@dataclass(frozen=True)
class _Part:
    """A level to be written: how it lies in the file, and where its states come from."""

    layout: LevelLayout
    states: Callable[[Which, int, int, int], torch.Tensor]
    """``(which, layer, begin, end)`` -> ``[1, K, T, E]``."""
    positions: bool
    """Whether its keys have positions rotated in."""


def save_memory(
    memory: VideoMemory, path: str | os.PathLike[str], *, dtype: str = "auto", level: str = "dense"
) -> None:
    """See :meth:`VideoMemory.save`."""
    if level not in ("dense", "pooled"):
        raise ValueError(f"unknown level {level!r}; allowed: dense, pooled")
    reader = memory._needs_reader("save")
    memory = memory.fork()  # what it holds now, whoever reads on meanwhile
    held = memory.cache.layers[0].dtype
    codec = codec_for(dtype, cast(torch.dtype, held))
    parts = _parts(memory, reader, codec, level)
    small = _small_tensors(memory)
    specs = [TensorSpec(name, t.dtype, tuple(t.shape)) for name, t in small.items()]
    writer = MemoryFileWriter(
        [*specs, *(spec for part in parts for spec in part.layout.specs())],
        _metadata(memory, reader.card, codec, parts),
    )
    with replacing(path, writer.size) as descriptor, torch.inference_mode():
        for name, tensor in small.items():
            writer.put(descriptor, name, 0, tensor)
        for part in parts:
            _write_level(writer, descriptor, part, reader)
        writer.finish(descriptor)


def _parts(memory: VideoMemory, reader: Reader, codec: Codec, level: str) -> list[_Part]:
    layers, ranges = memory.cache.layers, dense_ranges(memory)
    layout = _layouts(reader.card, codec)

    def dense(which: Which, layer: int, begin: int, end: int) -> torch.Tensor:
        return layers[layer].select(which, torch.arange(begin, end))

    pooled = _pooled(memory, reader)
    if pooled is None:
        if level == "pooled":
            raise ValueError("only Video-XL-2's memories have a pooled level: save this one with level='dense'")
        return [_Part(layout(DENSE, ranges), dense, positions=True)]
    if level == "pooled":
        ranges = tuple(sorted({*ranges[:2], ranges[-1]}))
    states = {"keys": pooled.keys, "values": pooled.values}

    def averages(which: Which, layer: int, begin: int, end: int) -> torch.Tensor:
        return states[which][layer][:, :, begin:end]

    edges = tuple((a, min(a + POOLED_TOKENS, len(pooled))) for a in range(0, len(pooled), POOLED_TOKENS))
    return [
        _Part(layout(DENSE, ranges), dense, positions=True),
        _Part(layout(f"pooled{POOL}", edges), averages, positions=False),
    ]


def _layouts(card: ModelCard, codec: Codec) -> Callable[[str, tuple[tuple[int, int], ...]], LevelLayout]:
    """What makes a level's layout of its name and ranges."""
    return partial(LevelLayout, codec=codec, layers=card.layers, heads=card.heads, width=card.head_width)


def dense_ranges(memory: VideoMemory) -> tuple[tuple[int, int], ...]:
    """Tokens of each block: the prefix, then a few groups each, or as many tokens where groups are not apart."""
    head, length = memory.prefix_length, len(memory.token_ids)
    ends = [head + group.token_end for group in memory.groups]
    if ends[-1] == length:
        edges = [0, head, *ends[BLOCK_GROUPS - 1 :: BLOCK_GROUPS], length]
    else:
        edges = [0, head, *range(head + BLOCK_TOKENS, length, BLOCK_TOKENS), length]
    return tuple((a, b) for a, b in pairwise(edges) if a < b)


def _pooled(memory: VideoMemory, reader: Reader) -> PooledLevel | None:
    """The averaged level: the one at hand, or made for the file and not kept. None where there can be none."""
    if not reader.card.two_levels:
        return None
    level = memory.pooled.get(POOL)
    if level is not None and level.token_ids is memory.token_ids:
        return level
    with torch.inference_mode():
        return make_pooled(
            memory.cache,
            memory.token_ids,
            _layout(memory.token_ids, memory.prefix_length, reader.card),
            POOL,
            rotate=reader.rotate,
            devices=reader.layer_devices,
            video_token_id=reader.card.video_token_id,
        )


def _layout(token_ids: Sequence[int], prefix_length: int, card: ModelCard) -> GroupLayout:
    return GroupLayout.from_ids(token_ids, prefix_length, card.video_token_id)


def _write_level(writer: MemoryFileWriter, descriptor: int, part: _Part, reader: Reader) -> None:
    """One layer of one block at a time, so that nothing is held twice."""
    layout = part.layout
    for block, (begin, end) in enumerate(layout.ranges):
        for layer in range(layout.layers):
            for which in BOTH:
                states = part.states(which, layer, begin, end)
                if which == "keys" and part.positions and not layout.codec.rotated:
                    states = reader.rotate(states.float(), torch.arange(begin, end, device=states.device), back=True)
                for name, tensor in layout.codec.encode(which, states[0]).items():
                    writer.put(descriptor, part_name(layout.name, block, name), layer, tensor)


def _small_tensors(memory: VideoMemory) -> dict[str, torch.Tensor]:
    groups = memory.groups
    tensors = {
        "token_ids": torch.tensor(memory.token_ids, dtype=torch.int64),
        "timestamps": torch.tensor(memory.timestamps, dtype=torch.float64),
        "group_seconds": torch.tensor([[g.start_s, g.end_s] for g in groups], dtype=torch.float64),
        "group_tokens": torch.tensor([[g.token_start, g.visual_start, g.token_end] for g in groups]),
    }
    if memory.tail is not None:
        tensors["tail_pixels"] = torch.from_numpy(np.ascontiguousarray(memory.tail.pixels_FHWC))
    return tensors


def _metadata(memory: VideoMemory, card: ModelCard, codec: Codec, parts: Sequence[_Part]) -> dict[str, str]:
    fields = {
        "prefill": memory.prefill,
        "prefix_length": memory.prefix_length,
        "usage": memory.usage,
        "warnings": memory.warnings,
        "settled_tokens": memory.tail.settled_tokens if memory.tail else None,
        "held_dtype": str(memory.cache.layers[0].dtype).removeprefix("torch."),
        "offloaded": any(
            isinstance(layer, HostLayer) or getattr(layer, "on_host", False) for layer in memory.cache.layers
        ),
    }
    levels = {part.layout.name: part.layout.ranges for part in parts}
    return {
        "videoxl": _version(),
        "model": json.dumps(asdict(card)),
        "memory": json.dumps(fields, default=str),
        "storage": json.dumps({"dtype": codec.name, "levels": levels}),
    }


def _version() -> str:
    try:
        return importlib.metadata.version("videoxl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# ------------------------------------------------------------------------------------------------------------ loading


@dataclass(frozen=True)
class StoredMemory:
    """What a memory file says, keys and values aside."""

    file: MemoryFile
    card: ModelCard
    fields: dict[str, Any]
    dtype: str
    """Of keys and values in the file."""
    layouts: dict[str, LevelLayout]
    token_ids: tuple[int, ...]
    timestamps: tuple[float, ...]
    groups: tuple[Group, ...]
    tail: Tail | None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> StoredMemory:
        """Raises :class:`MemoryFileError` for a file that is none, or damaged."""
        file = MemoryFile(path)
        try:
            return cls._from(file)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise file.corrupt(f"its header does not hold together ({type(error).__name__}: {error})") from None

    @classmethod
    def _from(cls, file: MemoryFile) -> StoredMemory:
        fields, storage = json.loads(file.metadata["memory"]), json.loads(file.metadata["storage"])
        card = _card(json.loads(file.metadata["model"]))
        layout = _layouts(card, Codec(storage["dtype"]))
        layouts = {
            name: layout(name, _ascending((int(a), int(b)) for a, b in ranges))
            for name, ranges in storage["levels"].items()
        }
        small = {name: file.read(name) for name in SMALL if name in file}
        seconds, tokens = small["group_seconds"].tolist(), small["group_tokens"].tolist()
        token_ids = tuple(int(i) for i in small["token_ids"].tolist())
        if layouts[DENSE].ranges[-1][1] != len(token_ids) or not 0 <= fields["prefix_length"] <= len(token_ids):
            raise ValueError(f"levels and ids disagree about the {len(token_ids)} tokens")
        tail = None
        if "tail_pixels" in small:
            tail = Tail(small["tail_pixels"].numpy(), int(fields["settled_tokens"]))
        return cls(
            file=file,
            card=card,
            fields={**fields, "usage": _tuples(fields["usage"])},
            dtype=storage["dtype"],
            layouts=layouts,
            token_ids=token_ids,
            timestamps=tuple(small["timestamps"].tolist()),
            groups=tuple(Group(*times, *places) for times, places in zip(seconds, tokens, strict=True)),
            tail=tail,
        )


def load_memory(path: str | os.PathLike[str], model: Reader) -> VideoMemory:
    """See :meth:`VideoMemory.load`."""
    stored = StoredMemory.open(path)
    card = model.card
    if replace(stored.card, name=card.name) != card:
        raise MemoryFileError(
            f"{stored.file.path} was made by {stored.card}, this model is {card}: load the one that made it, or encode "
            "the video again",
            code="memory_mismatch",
        )
    fields, devices = stored.fields, model.layer_devices
    held = PLAIN[fields["held_dtype"]]
    dense = StoredLevel(stored.file, stored.layouts[DENSE], len(stored.token_ids), held, model.rotate)
    cache = KVCache(0)
    cache.layers = [
        FileLayer(dense, number, device, host=bool(fields["offloaded"])) for number, device in enumerate(devices)
    ]
    return VideoMemory(
        cache=cache,
        token_ids=stored.token_ids,
        prefix_length=fields["prefix_length"],
        groups=stored.groups,
        timestamps=stored.timestamps,
        prefill=fields["prefill"],
        model_fingerprint=stored.card.fingerprint,
        usage=fields["usage"],
        warnings=tuple(fields["warnings"]),
        tail=stored.tail,
        reader=model,
        pooled=dict(_stored_pooled(stored, held, devices)),
    )


def _stored_pooled(
    stored: StoredMemory, held: torch.dtype, devices: Sequence[torch.device]
) -> Iterator[tuple[int, PooledLevel]]:
    for name, layout in stored.layouts.items():
        if name == DENSE:
            continue
        pool = int(name.removeprefix("pooled"))
        level = StoredLevel(stored.file, layout, layout.tokens, held, None)
        made = level_of(
            stored.token_ids,
            _layout(stored.token_ids, stored.fields["prefix_length"], stored.card),
            pool,
            StoredTensors(level, "keys", devices),
            StoredTensors(level, "values", devices),
            video_token_id=stored.card.video_token_id,
        )
        if len(made) != layout.tokens:
            raise stored.file.corrupt(f"{name} has {layout.tokens} tokens, the ids ask for {len(made)}")
        yield pool, made


def _card(found: dict[str, Any]) -> ModelCard:
    """Fields that a later writer added are ignored."""
    return ModelCard(**{name: found[name] for name in ModelCard.__dataclass_fields__})


def _ascending(ranges: Iterator[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found = tuple(ranges)
    flat = [place for pair in found for place in pair]
    if not found or flat[0] < 0 or flat != sorted(flat) or any(a == b for a, b in found):
        raise ValueError("blocks are not in order")
    return found


def _tuples(value: Any) -> Any:
    """JSON knows no tuples; a memory's usage holds no lists."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
