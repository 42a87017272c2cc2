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

from videoxl.errors import DoesNotFitError
from videoxl.inference.prefill.beacon import BeaconWriter
from videoxl.inference.prefill.full import CacheWriter, FullWriter
from videoxl.inference.progress import Progress
from videoxl.inference.prompt import Tokenize, VisualSpan, span_for
from videoxl.inference.subtitles import PlacedSubtitles
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import Group
from videoxl.memory.types import PendingFrames
from videoxl.model.configuration import VideoXLConfig
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
    still: bool = False
    """These are the crops of one still picture, the whole of it first."""


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
    pending: PendingFrames | None = None
    """What must be read again when more frames follow."""
    notes: tuple[str, ...] = ()
    """What was done differently than asked, one sentence each."""
    window_ratios: tuple[int, ...] = ()
    """The ratio of every window, where there were windows."""


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
        self.vision_frames: int | None = None
        """Most frames at once, where the GPU's memory did not suffice for more."""
        self.notes: list[str] = []
        self.subtitles: PlacedSubtitles | None = None
        """Read behind the timestamps of their frames."""

    def span_of(
        self, timestamps: Sequence[float], end_s: float | None = None, *, before: float | None = None
    ) -> VisualSpan:
        """Of whole groups, with what is said in them; ``before``: the time of the frame before them."""
        config = self.model.config
        said = self.subtitles.of_groups(timestamps, config.frames_per_group, before) if self.subtitles else None
        return span_for(config, timestamps, self.tokenize, end_s, said)

    @torch.inference_mode()
    def run(
        self,
        prefix_ids: Sequence[int],
        stream: Iterator[Tile],
        *,
        writer: CacheWriter | None = None,
        before: Sequence[float] = (),
        expected_frames: int | None = None,
        expected_tokens: int = 0,
        end_s: float | None = None,
    ) -> Prefilled:
        """Consume ``stream``. ``expected_*`` serve progress and buffer sizes only; ``end_s`` is the video's end.

        ``writer`` says how the language model reads; default :class:`FullWriter`. ``before``: times of frames that are
        in its cache already.
        """
        writer = writer or FullWriter(self.model, prefix_ids, reserve=expected_tokens)
        config = self.model.config
        times, recent, still = list(before), _Recent(writer, config), None
        begin = time.perf_counter()
        for tile in stream:
            self.clock.measure("decode", begin)
            last = times[-1] if times else None
            times += tile.timestamps
            self.progress("decode", len(times), expected_frames)
            begin = time.perf_counter()
            tokens = self._image_tokens(tile.pixels) if tile.still else self._visual_tokens(tile.pixels)
            still = still_span(config, len(tokens)) if tile.still else None
            self.clock.measure("vision", begin)
            self.progress("vision", len(times), expected_frames)
            begin = time.perf_counter()
            writer.add(still or self.span_of(tile.timestamps, before=last), tokens)
            recent.add(tile.pixels)
            self.clock.measure("prefill", begin)
            self.progress("prefill", len(times), expected_frames)
            begin = time.perf_counter()
        begin = time.perf_counter()
        writer.finish()
        self.clock.measure("prefill", begin)
        span = still or self.span_of(times, end_s)
        return Prefilled(
            cache=writer.cache,
            token_ids=tuple(writer.ids),
            prefix_length=len(prefix_ids),
            timestamps=tuple(times),
            span=span,
            seconds=self.clock.rounded(),
            pending=None if still else recent.pending(len(times), span, len(prefix_ids)),
            notes=(*self.notes, *writer.notes),
            window_ratios=tuple(writer.ratios_used) if isinstance(writer, BeaconWriter) else (),
        )

    def _visual_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Of whole groups of frames; in halves when the GPU's memory does not suffice, which changes nothing."""
        group = self.model.config.frames_per_group
        most = self.vision_frames or len(pixels)
        try:
            parts = [self.model.model.encode_frames(self._ready(part)) for part in pixels.split(most)]
        except torch.OutOfMemoryError:
            if most <= group:
                raise DoesNotFitError(
                    f"the GPU ran out of memory on {most} frames at once: use a smaller or quantised model"
                ) from None
            self.vision_frames = max(group, min(most, len(pixels)) // 2 // group * group)
            self.notes.append(f"the GPU ran out of memory; went on with {self.vision_frames} frames at a time")
            torch.cuda.empty_cache()
            return self._visual_tokens(pixels)
        return torch.cat(parts).flatten(0, 1)

    def _image_tokens(self, crops: torch.Tensor) -> torch.Tensor:
        return self.model.model.encode_image(self._ready(crops))

    def _ready(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[F, 3, H, W]``, normalised, where and as the vision tower wants it."""
        config, pixels = self.model.config, pixels.to(self.vision_device)
        if pixels.dtype == torch.uint8:
            return normalize_pixels(pixels, config.image_mean, config.image_std, self.vision_dtype)
        return pixels.to(self.vision_dtype)


class _Recent:
    """The last frames, as many as can be unsettled: those of a group, or of a window."""

    def __init__(self, writer: CacheWriter, config: VideoXLConfig) -> None:
        self.writer, self.config = writer, config
        self.most = config.frames_per_group
        if isinstance(writer, BeaconWriter):
            self.most = writer.loop.window // config.tokens_per_group
        self._frames: torch.Tensor | None = None

    def add(self, pixels: torch.Tensor) -> None:
        newest = pixels[-self.most :]
        joined = newest if self._frames is None else torch.cat([self._frames, newest])
        self._frames = joined[-self.most :].clone()  # not a view: a tile is large

    def pending(self, frames: int, span: VisualSpan, prefix: int) -> PendingFrames | None:
        """Those of ``frames`` frames that are not settled."""
        if isinstance(self.writer, BeaconWriter):
            visual, tokens = self.writer.settled
            whole = visual // self.config.tokens_per_group
        else:
            groups, rest = divmod(frames, self.config.frames_per_group)
            whole = frames - rest
            tokens = prefix + span.groups[groups].token_start if rest else len(self.writer.ids)
        if whole == frames or self._frames is None:
            return None
        return PendingFrames(self._frames[whole - frames :].numpy(), tokens)


def still_span(config: VideoXLConfig, tokens: int) -> VisualSpan:
    """One still picture, which has no time."""
    return VisualSpan((config.image_token_id,) * tokens, (Group(0.0, 0.0, 0, 0, tokens),))
