"""Save a memory in one file (the format: docs/reference/memory-file.md). :mod:`videoxl.memory.file.load` reads it.

Keys and values are written level by level in blocks of tokens (:mod:`videoxl.memory.file.layers`), everything else in a
few small tensors and in the metadata.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from videoxl.config import BiLevelDecode
from videoxl.cues_json import tracks_json
from videoxl.memory.file.atomic import replacing
from videoxl.memory.file.codec import Codec, codec_for
from videoxl.memory.file.format import PLAIN_VERSION, VERSION, TensorSpec, is_memory_file
from videoxl.memory.file.layers import BOTH, DENSE, POOLED, LevelLayout, Ranges, part_name
from videoxl.memory.file.writer import MemoryFileWriter
from videoxl.memory.kv_cache import Which
from videoxl.memory.layout import GroupLayout
from videoxl.memory.model_id import ModelId
from videoxl.memory.pooling import CoarseKV, make_coarse_kv
from videoxl.memory.split_cache import is_offloaded
from videoxl.memory.types import MemoryOwner, MemoryState
from videoxl.text import without_surrogates

BLOCK_GROUPS = BiLevelDecode().block_size
"""Groups per block of the dense level: what a bi-level question reads in one piece."""
BLOCK_TOKENS = 1024
"""Tokens per block where groups cannot be told apart."""
POOLED_TOKENS = 4096
"""Tokens per block of the averages, which are always read whole."""
POOL = BiLevelDecode().pool
"""Tokens averaged into one."""


@dataclass(frozen=True)
class _Part:
    """A level to write: its layout in the file, and where its states come from."""

    layout: LevelLayout
    states: Callable[[Which, int, int, int], torch.Tensor]
    """Returns ``[1, K, T, E]`` for ``(which, layer, begin, end)``."""
    positions: bool
    """Whether its keys are rotated to their positions."""


def save_memory(
    memory: MemoryState,
    owner: MemoryOwner,
    path: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    level: str = "dense",
) -> None:
    """Write a memory to ``path``; see ``VideoMemory.save``."""
    check_save(dtype, level)
    if not _begins_with_text(memory):
        raise ValueError(
            "a memory with further videos or pictures before its own is not written to a file: keep it in this "
            "program, or save a memory of each video and encode(before=...) anew where they are asked about together"
        )
    held = memory.cache.layers[0].dtype
    codec = codec_for(dtype, held)
    parts = _parts(memory, owner, codec, level)
    small = _small_tensors(memory)
    specs = [TensorSpec(name, t.dtype, tuple(t.shape)) for name, t in small.items()]
    writer = MemoryFileWriter(
        [*specs, *(spec for part in parts for spec in part.layout.specs())],
        _metadata(memory, owner.model_id, codec, parts),
        version=PLAIN_VERSION if memory.cache.positions is None else VERSION,
    )
    with replacing(path, writer.size) as descriptor, torch.inference_mode():
        for name, tensor in small.items():
            writer.put(descriptor, name, 0, tensor)
        for part in parts:
            _write_level(writer, descriptor, part, owner, memory.cache.positions_at)
        writer.finish(descriptor)


def check_save(dtype: str, level: str) -> None:
    """Raise ``ValueError`` for a dtype or a level that ``VideoMemory.save`` does not know."""
    codec_for(dtype, torch.float32)
    if level not in (DENSE, POOLED):
        raise ValueError(f"unknown level {level!r}; allowed: {DENSE}, {POOLED}")


def check_target(path: str) -> None:
    """Raise ``ValueError`` where a memory cannot be written, or would replace something that is no memory."""
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or "."):
        raise ValueError(f"{path} cannot be a file: give a name in a folder that exists")
    if os.path.exists(path) and not is_memory_file(path):
        raise ValueError(f"{path} exists and is no memory: give another name, or remove it")


def _parts(memory: MemoryState, owner: MemoryOwner, codec: Codec, level: str) -> list[_Part]:
    layers, ranges = memory.cache.layers, dense_ranges(memory)
    layout = partial(LevelLayout.of, owner.model_id, codec)

    def dense(which: Which, layer: int, begin: int, end: int) -> torch.Tensor:
        return layers[layer].select(which, torch.arange(begin, end))

    coarse = _coarse_kv(memory, owner)
    if coarse is None:
        if level == POOLED:
            raise ValueError(
                f"memories of {owner.model_id.family} have no pooled level: save this one with level='dense'"
            )
        return [_Part(layout(DENSE, ranges), dense, positions=True)]
    if level == POOLED:
        ranges = tuple(sorted({*ranges[:2], ranges[-1]}))
    states = {"keys": coarse.keys, "values": coarse.values}

    def averages(which: Which, layer: int, begin: int, end: int) -> torch.Tensor:
        return states[which][layer][:, :, begin:end]

    edges = tuple((a, min(a + POOLED_TOKENS, len(coarse))) for a in range(0, len(coarse), POOLED_TOKENS))
    return [
        _Part(layout(DENSE, ranges), dense, positions=True),
        _Part(layout(f"{POOLED}{POOL}", edges), averages, positions=False),
    ]


def dense_ranges(memory: MemoryState) -> Ranges:
    """Cut a memory into blocks: the prefix, then a few groups each, or some tokens where groups are not apart."""
    head, length = memory.prefix_length, len(memory.token_ids)
    ends = [head + group.token_end for group in memory.groups]
    if ends[-1] == length:
        edges = [0, head, *ends[BLOCK_GROUPS - 1 :: BLOCK_GROUPS], length]
    else:
        edges = [0, head, *range(head + BLOCK_TOKENS, length, BLOCK_TOKENS), length]
    return tuple((a, b) for a, b in pairwise(edges) if a < b)


def _coarse_kv(memory: MemoryState, owner: MemoryOwner) -> CoarseKV | None:
    """Return the averages: those at hand, or computed for the file and not kept. None: the model has no such level."""
    if not owner.model_id.two_levels or owner.model_id.video_token_id not in memory.token_ids:
        return None  # a still picture may have tokens of its own, and one group is never averaged
    if POOL in memory.coarse_kv:
        return memory.coarse_kv[POOL]
    with torch.inference_mode():
        return make_coarse_kv(
            memory.cache,
            memory.token_ids,
            GroupLayout.from_ids(memory.token_ids, memory.prefix_length, owner.model_id.video_token_id),
            POOL,
            rope=owner.rope,
            devices=owner.layer_devices,
            video_token_id=owner.model_id.video_token_id,
        )


def _write_level(
    writer: MemoryFileWriter,
    descriptor: int,
    part: _Part,
    owner: MemoryOwner,
    positions_at: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Write one layer of one block at a time, so that nothing is held twice."""
    layout = part.layout
    for block, (begin, end) in enumerate(layout.ranges):
        for layer in range(layout.layers):
            for which in BOTH:
                states = part.states(which, layer, begin, end)
                if which == "keys" and part.positions and not layout.codec.rotated:
                    at = positions_at(torch.arange(begin, end, device=states.device))
                    states = owner.rope.inverse_rope(states.float(), at)
                for name, tensor in layout.codec.encode(which, states[0]).items():
                    writer.put(descriptor, part_name(layout.name, block, name), layer, tensor)


def _small_tensors(memory: MemoryState) -> dict[str, torch.Tensor]:
    groups = memory.groups
    tensors = {
        "token_ids": torch.tensor(memory.token_ids, dtype=torch.int64),
        "timestamps": torch.tensor(memory.timestamps, dtype=torch.float64),
        "group_seconds": torch.tensor([[g.start_s, g.end_s] for g in groups], dtype=torch.float64),
        "group_tokens": torch.tensor([[g.token_start, g.visual_start, g.token_end] for g in groups]),
    }
    if memory.pending is not None:
        tensors["tail_pixels"] = torch.from_numpy(np.ascontiguousarray(memory.pending.pixels_FHWC))
    if memory.embeddings is not None:
        tensors["siglip_features"] = memory.embeddings.features_FD
    if memory.tracks:
        text = tracks_json(memory.tracks).encode()
        tensors["tracks"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)[None]
    if memory.cache.positions is not None:
        tensors["positions"] = memory.cache.positions.held_3S.contiguous()
    return tensors


def _metadata(memory: MemoryState, model: ModelId, codec: Codec, parts: Sequence[_Part]) -> dict[str, str]:
    seen = memory.embeddings
    fields = {
        "prefill": memory.prefill,
        "prefix_length": memory.prefix_length,
        "usage": memory.usage.to_dict(),
        "warnings": memory.warnings,
        "settled_tokens": memory.pending.committed_tokens if memory.pending else None,
        "siglip": {"model": seen.model, "fingerprint": seen.fingerprint} if seen else None,
        "held_dtype": str(memory.cache.layers[0].dtype).removeprefix("torch."),
        "offloaded": is_offloaded(memory.cache),
    }
    levels = {part.layout.name: part.layout.ranges for part in parts}
    return {
        "videoxl": _version(),
        "model": _json(asdict(model)),
        "memory": _json(fields),
        "storage": json.dumps({"dtype": codec.name, "levels": levels}),
    }


def _json(value: object) -> str:
    """Write JSON that any reader takes: names of files may hold lone surrogates, which become U+FFFD."""
    return without_surrogates(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _version() -> str:
    try:
        return importlib.metadata.version("videoxl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _begins_with_text(memory: MemoryState) -> bool:
    """Whether nothing but text, which takes one position a token, stands before the video."""
    placed, head = memory.cache.positions, memory.prefix_length
    return placed is None or torch.equal(placed.held_3S[:, :head], torch.arange(head).expand(3, -1).to(placed.held_3S))
