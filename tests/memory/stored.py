"""Memories to be written, files to be damaged."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from videoxl.memory.file import format as memory_file
from videoxl.memory.video_memory import VideoMemory

QUESTION, BILEVEL = "What is it?", "bilevel:relevance=0"


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)


def seconds(count: int, first: float = 0.0) -> list[float]:
    return [first + 0.5 * i for i in range(count)]


def encoded(engine, count: int = 38, seed: int = 0, **settings) -> VideoMemory:
    return engine.encode(frames=pictures(count, seed), timestamps=seconds(count), **settings)


def answer(engine, memory: VideoMemory, **settings) -> tuple[int, ...]:
    return engine.ask(memory, QUESTION, **{"max_new_tokens": 3, **settings}).token_ids


def assert_same(a: VideoMemory, b: VideoMemory) -> None:
    """The same memory, bit for bit."""
    for name in ("token_ids", "prefix_length", "groups", "timestamps", "prefill", "model_fingerprint", "warnings"):
        assert getattr(a, name) == getattr(b, name), name
    assert replace(a.usage, seconds={}) == replace(b.usage, seconds={})
    assert (a.pending is None) == (b.pending is None)
    if a.pending is not None and b.pending is not None:
        assert a.pending.committed_tokens == b.pending.committed_tokens
        assert np.array_equal(a.pending.pixels_FHWC, b.pending.pixels_FHWC)
    assert a.nbytes == b.nbytes
    assert same_states(a, b)


def same_states(a: VideoMemory, b: VideoMemory) -> bool:
    pairs = list(zip(a.cache.layers, b.cache.layers, strict=True))
    return all(torch.equal(x.keys, y.keys) and torch.equal(x.values, y.values) for x, y in pairs)


def read_all(memory: VideoMemory) -> None:
    """Everything that a question could read."""
    for layer in memory.cache.layers:
        assert layer.keys is not None
    for level in memory.coarse_kv.values():
        assert len([*level.keys, *level.values]) == 2 * len(memory.cache.layers)


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def data_begin(path: Path) -> int:
    return 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]


def with_header(path: Path, target: Path, change) -> Path:
    """A copy whose header went through ``change``, sealed again: what a forger, or another version, would write."""
    header, data = header_of(path), path.read_bytes()[data_begin(path) :]
    change(header)
    header["__metadata__"]["header_sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    whole = struct.pack("<Q", len(text)) + text
    seal = b'"header_sha256":"'
    target.write_bytes(whole.replace(seal + b"0" * 64, seal + memory_file.digest_of(whole)) + data)
    return target


def with_tensor(path: Path, target: Path, name: str, piece: int, change) -> Path:
    """A copy in which one piece of a tensor went through ``change``, with a checksum that agrees."""
    header = header_of(path)
    dtype, shape, at = memory_file.DTYPES[header[name]["dtype"]], header[name]["shape"], data_begin(path)
    pieces = 1 if "." not in name else shape[0]
    size = (header[name]["data_offsets"][1] - header[name]["data_offsets"][0]) // pieces
    at += header[name]["data_offsets"][0] + piece * size
    data = bytearray(path.read_bytes())
    before = torch.frombuffer(data[at : at + size], dtype=dtype).reshape(shape if pieces == 1 else shape[1:])
    changed = before.float() if dtype.itemsize == 1 and dtype.is_floating_point else before
    after = change(changed).to(dtype).contiguous()
    data[at : at + size] = after.flatten().view(torch.uint8).numpy().tobytes()
    target.write_bytes(data)

    def sums(header) -> None:
        checksums = json.loads(header["__metadata__"]["checksums"])
        held = f"{zlib.crc32(bytes(data[at : at + size])):08x}"
        checksums[name] = checksums[name][: 8 * piece] + held + checksums[name][8 * piece + 8 :]
        header["__metadata__"]["checksums"] = json.dumps(checksums)

    return with_header(target, target, sums)


def flipped(path: Path, target: Path, offset: int, bit: int = 0) -> Path:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    target.write_bytes(data)
    return target
