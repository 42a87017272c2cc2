"""Memories of random pictures, and how alike two of them are."""

from __future__ import annotations

import numpy as np

from videoxl.memory.video_memory import VideoMemory

PREFILLS = {
    "tiny": ("full", "chunked:chunk_size=4,step_size=2", "chunked:chunk_size=2,step_size=1,offload=True"),
    "tiny-v1": ("beacon", "beacon:ratio=12", "beacon:ratio=2+4+8,mix=random", "beacon:ratio=2+8,mix=sequence", "full"),
}
CASES = [(name, prefill) for name, prefills in PREFILLS.items() for prefill in prefills]
TOLERANCE = 2e-5  # of keys of size about 4; where a cut falls between groups the sums are the same, bit for bit


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)


def seconds(count: int, first: float = 0.0) -> list[float]:
    return [first + 0.5 * i for i in range(count)]


def difference(a: VideoMemory, b: VideoMemory) -> float:
    pairs = [(x, y) for x, y in zip(a.cache.layers, b.cache.layers)]
    return max(float((x - y).abs().max()) for p, q in pairs for x, y in ((p.keys, q.keys), (p.values, q.values)))


def alike(a: VideoMemory, b: VideoMemory) -> None:
    """The same memory but for rounding."""
    for name in ("token_ids", "prefix_length", "groups", "timestamps", "prefill"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("frames", "visual_tokens", "memory_tokens", "memory_bytes", "window_ratios", "video_seconds"):
        assert getattr(a.usage, name) == getattr(b.usage, name), name
    assert difference(a, b) <= TOLERANCE


def places(memory: VideoMemory) -> list[int]:
    return [t.data_ptr() for layer in memory.cache.layers for t in (layer.keys, layer.values)]
