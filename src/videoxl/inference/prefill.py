"""Read a video into a KV cache, tile by tile.

A tile is a fixed number of groups: its frames go through vision tower, token synthesis and projector, its tokens
through the language model on top of the cache so far. So neither pixels nor hidden states of a whole video are ever
held. Where tiles begin depends on nothing but their number, which makes a run repeatable bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from videoxl.inference.progress import Progress
from videoxl.inference.prompt import Tokenize, VisualSpan, span_for
from videoxl.inference.writers import CacheWriter, FullWriter
from videoxl.memory.kv_cache import KVCache
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.model.vision import normalize_pixels

GROUPS_PER_TILE = 24
"""Groups of four frames per tile: 96 frames, about 3,700 tokens. The released token synthesis runs on as many."""
FRAMES_PER_TILE = 4 * GROUPS_PER_TILE


@dataclass
class Clock:
    """Seconds spent per phase; on a GPU phases are told apart by synchronising at their borders."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    def measure(self, phase: str, begin: float) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begin

    def rounded(self) -> dict[str, float]:
        return {phase: round(value, 6) for phase, value in self.seconds.items()}


@dataclass(frozen=True)
class Tile:
    """Frames that go through the model together: ``pixels`` 8-bit ``[F, H, W, 3]`` or ready ``[F, 3, H, W]``."""

    pixels: torch.Tensor
    timestamps: tuple[float, ...]


def tiles(batches: Iterable[Any], frames_per_tile: int) -> Iterator[Tile]:
    """Regroup frame batches of any size into tiles of exactly ``frames_per_tile`` frames; the last may be short."""
    pixels: list[np.ndarray] = []
    times: list[float] = []
    for batch in batches:
        pixels.extend(batch.pixels_FHWC)
        times.extend(float(t) for t in batch.timestamps_F)
        while len(times) >= frames_per_tile:
            yield _tile(pixels[:frames_per_tile], times[:frames_per_tile])
            del pixels[:frames_per_tile], times[:frames_per_tile]
    if times:
        yield _tile(pixels, times)


def _tile(pixels: Sequence[np.ndarray], times: Sequence[float]) -> Tile:
    return Tile(torch.from_numpy(np.stack(pixels)), tuple(times))


@dataclass(frozen=True)
class Prefilled:
    """A filled cache and what is in it."""

    cache: KVCache
    token_ids: tuple[int, ...]
    prefix_length: int
    timestamps: tuple[float, ...]
    span: VisualSpan
    seconds: dict[str, float]
    """Per phase: decode, vision, prefill."""


class Prefill:
    """Reads one video: frames through the vision side, visual tokens to a :class:`CacheWriter`."""

    def __init__(
        self, model: VideoXLForConditionalGeneration, tokenize: Tokenize, *, progress: Progress | None = None
    ) -> None:
        self.model = model
        self.tokenize = tokenize
        self.progress = progress or (lambda phase, done, total: None)
        self.vision_device, self.vision_dtype = model.model.vision_device, model.model.vision_dtype
        self.clock = Clock(self.vision_device)

    def span_of(self, timestamps: Sequence[float], end_s: float | None = None) -> VisualSpan:
        return span_for(self.model.config, timestamps, self.tokenize, end_s)

    @torch.inference_mode()
    def run(
        self,
        prefix_ids: Sequence[int],
        stream: Iterator[Tile],
        *,
        writer: CacheWriter | None = None,
        expected_frames: int | None = None,
        expected_tokens: int = 0,
        end_s: float | None = None,
    ) -> Prefilled:
        """Consume ``stream``. ``expected_*`` serve progress and buffer sizes only; ``end_s`` is the video's end.

        ``writer`` says how the language model reads; default :class:`FullWriter`.
        """
        writer = writer or FullWriter(self.model, prefix_ids, reserve=expected_tokens)
        times: list[float] = []
        begin = time.perf_counter()
        for tile in stream:
            self.clock.measure("decode", begin)
            times += tile.timestamps
            self.progress("decode", len(times), expected_frames)
            begin = time.perf_counter()
            tokens = self._visual_tokens(tile.pixels)
            self.clock.measure("vision", begin)
            self.progress("vision", len(times), expected_frames)
            begin = time.perf_counter()
            writer.add(self.span_of(tile.timestamps), tokens)
            self.clock.measure("prefill", begin)
            self.progress("prefill", len(times), expected_frames)
            begin = time.perf_counter()
        begin = time.perf_counter()
        writer.finish()
        self.clock.measure("prefill", begin)
        span = self.span_of(times, end_s)
        return Prefilled(writer.cache, tuple(writer.ids), len(prefix_ids), tuple(times), span, self.clock.rounded())

    def _visual_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        config = self.model.config
        pixels = pixels.to(self.vision_device)
        if pixels.dtype == torch.uint8:
            pixels = normalize_pixels(pixels, config.image_mean, config.image_std, self.vision_dtype)
        return self.model.model.encode_frames(pixels.to(self.vision_dtype)).flatten(0, 1)
