"""Read a video into a KV cache, tile by tile.

The frames of a tile go through vision tower, token synthesis and projector, its visual tokens to a prefiller. So
neither pixels nor hidden states of a whole video are ever held. Where tiles begin depends on their number alone,
which makes a run repeatable bit for bit.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from videoxl.errors import DoesNotFitError
from videoxl.inference.prefill.ahead import read_ahead
from videoxl.inference.prefill.clock import PhaseClock
from videoxl.inference.prefill.full import FullPrefiller
from videoxl.inference.prefill.prefiller import Prefiller, PrefillState
from videoxl.inference.prefill.tiles import Tile
from videoxl.inference.progress import Progress
from videoxl.inference.prompt import Tokenize, VisualSpan, join_spans, last_end, span_for
from videoxl.inference.subtitles import PlacedSubtitles
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import Group
from videoxl.memory.question_room import let_go_of
from videoxl.memory.types import PendingFrames
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.upload import to_device
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.model.vision import normalize_pixels

LATE = "the GPU ran out of memory for the frames that come next; they were uploaded when their turn came"


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
    warnings: tuple[str, ...] = ()
    """What was done differently than asked, one sentence each."""
    window_ratios: tuple[int, ...] = ()
    """The compression ratio of every window; empty where nothing is compressed."""


class PrefillRunner:
    """Reads one video: frames through the vision side, visual tokens to a :class:`Prefiller`."""

    def __init__(
        self,
        model: VideoXLForConditionalGeneration,
        tokenize: Tokenize,
        *,
        config: VideoXLConfig | None = None,
        subtitles: PlacedSubtitles | None = None,
        progress: Progress | None = None,
    ) -> None:
        """``config``: the model's, for pictures of the video's size; default that of pictures of one size."""
        self.model, self.config = model, config or model.config
        self.tokenize = tokenize
        self.subtitles = subtitles
        self.progress = progress or (lambda phase, done, total: None)
        self.vision_device, self.vision_dtype = model.model.vision_device, model.model.vision_dtype
        self.clock = PhaseClock(self.vision_device)
        self.vision_frames: int | None = None
        """Most frames at once, where the GPU's memory did not suffice for more."""
        self.warnings: list[str] = []

    def span_of(self, timestamps: Sequence[float], *, before: float | None = None) -> VisualSpan:
        """Lay out whole groups with their subtitles. ``before``: the time of the frame before them; None: no group."""
        config = self.config
        subtitle_ids = self.subtitles.of_groups(timestamps, config.frames_per_group, before) if self.subtitles else None
        continued = before is not None
        return span_for(config, timestamps, self.tokenize, subtitle_ids=subtitle_ids, continued=continued)

    @torch.inference_mode()
    def run(
        self,
        prefix_ids: Sequence[int],
        stream: Iterator[Tile],
        *,
        prefiller: Prefiller | None = None,
        before: PrefillState | None = None,
        expected_frames: int | None = None,
        expected_tokens: int = 0,
        end_s: float | None = None,
    ) -> Prefilled:
        """Read all tiles of ``stream``.

        Args:
            prefiller: how the language model reads; default :class:`FullPrefiller`.
            before: what is in its cache already.
            expected_frames, expected_tokens: for progress and buffer sizes only.
            end_s: the second at which the last group ends.
        """
        prefiller = prefiller or FullPrefiller(self.model, prefix_ids, reserve=expected_tokens)
        config, times, still = self.config, list(before.timestamps if before else ()), None
        spans = [before.span] if before else []
        recent = _RecentFrames(prefiller.most_pending_frames)
        if self.vision_device.type == "cuda":
            stream = read_ahead(stream, self.vision_device)
        with closing_of(stream) as tiles:
            for tile in self.clock.waiting("decode", tiles):
                last = times[-1] if times else None
                times += tile.timestamps
                self.progress("decode", len(times), expected_frames)
                with self.clock.phase("vision"):
                    tokens = self._tokens(tile)
                still = still_span(config, len(tokens), self.tokenize) if tile.still else None
                spans.append(still or self.span_of(tile.timestamps, before=last))
                self.progress("vision", len(times), expected_frames)
                with self.clock.phase("prefill"):
                    prefiller.add(spans[-1], tokens)
                del tokens  # or they would lie beside the next tile's
                recent.add(tile.pixels)
                self.progress("prefill", len(times), expected_frames)
        with self.clock.phase("prefill"):
            prefiller.finish()
        span = still or (join_spans(spans, last_end(times, end_s)) if times else VisualSpan((), ()))
        return Prefilled(
            cache=prefiller.cache,
            token_ids=tuple(prefiller.ids),
            prefix_length=len(prefix_ids),
            timestamps=tuple(times),
            span=span,
            seconds=self.clock.seconds(),
            pending=None if still else _pending(prefiller, recent, len(times), span),
            warnings=(*self.warnings, *prefiller.warnings),
            window_ratios=prefiller.window_ratios,
        )

    def _tokens(self, tile: Tile) -> torch.Tensor:
        pixels = tile.pixels if tile.on_device is None else tile.on_device
        if self.vision_device.type == "cuda" and tile.on_device is None and LATE not in self.warnings:
            self.warnings.append(LATE)
        return self._image_tokens(pixels) if tile.still else self._visual_tokens(pixels)

    def _visual_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode whole groups of frames; in halves when the GPU's memory does not suffice, which changes no number."""
        while True:
            most = self.vision_frames or len(pixels)
            try:
                parts = [self.model.model.encode_frames(self._normalised(part)) for part in pixels.split(most)]
                return torch.cat(parts).flatten(0, 1)
            except torch.OutOfMemoryError as error:
                traceback.clear_frames(error.__traceback__)  # they hold what the failed attempt had made
            if not let_go_of():
                self._fewer_frames(min(most, len(pixels)))

    def _fewer_frames(self, most: int) -> None:
        """Go on with half of ``most`` frames at a time. Raises :class:`DoesNotFitError` when that is not a group."""
        group = self.model.config.frames_per_group
        if most <= group:
            raise DoesNotFitError(
                f"the GPU ran out of memory on {most} frames at once: use a smaller or quantised model"
            )
        self.vision_frames = max(group, most // 2 // group * group)
        self.warnings.append(f"the GPU ran out of memory; went on with {self.vision_frames} frames at a time")
        torch.cuda.empty_cache()

    def _image_tokens(self, crops: torch.Tensor) -> torch.Tensor:
        try:
            return self.model.model.encode_image(self._normalised(crops))
        except torch.OutOfMemoryError as error:
            raise DoesNotFitError(
                f"the GPU ran out of memory on {len(crops)} parts of an image: use a smaller or quantised model"
            ) from error

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise to ``[F, 3, H, W]``, on the device and in the dtype of the vision tower."""
        config, pixels = self.model.config, to_device(pixels, self.vision_device)
        if pixels.dtype == torch.uint8:
            return normalize_pixels(pixels, config.image_mean, config.image_std, self.vision_dtype)
        return pixels.to(self.vision_dtype)


@contextmanager
def closing_of(stream: Iterator[Tile]) -> Iterator[Iterator[Tile]]:
    """End a generator with the block, whatever happens in it: its thread, or its decoder, is not left behind."""
    try:
        yield stream
    finally:
        if isinstance(stream, Generator):
            stream.close()


class _RecentFrames:
    """Holds the last ``most`` frames."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.pixels: torch.Tensor | None = None

    def add(self, pixels: torch.Tensor) -> None:
        newest = pixels[-self.most :]
        joined = newest if self.pixels is None else torch.cat([self.pixels, newest])
        self.pixels = joined[-self.most :].clone()  # not a view: a tile is large


def _pending(prefiller: Prefiller, recent: _RecentFrames, frames: int, span: VisualSpan) -> PendingFrames | None:
    """The frames behind what is committed; None where all ``frames`` are."""
    committed = prefiller.committed(frames, span)
    if committed.frames == frames or recent.pixels is None:
        return None
    return PendingFrames(recent.pixels[committed.frames - frames :].numpy(), committed.tokens)


def still_span(config: VideoXLConfig, tokens: int, tokenize: Tokenize) -> VisualSpan:
    """Lay out one still picture, which has no time."""
    opening = config.traits.tokens.opening
    head = tuple(tokenize(opening)) if opening else ()
    end = len(head) + tokens
    return VisualSpan((*head, *(config.image_token_id,) * tokens), (Group(0.0, 0.0, 0, len(head), end),))
