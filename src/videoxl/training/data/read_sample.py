"""The pictures of a record: which files they are, and their frames as the engine would see them."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from videoxl.config import FullPrefill, PrefillStrategy, Sampling
from videoxl.errors import TrainingDataError, VideoError
from videoxl.inference.prefill.choose import sampled_in_multiples_of
from videoxl.inference.prompt import Tokenize, span_for
from videoxl.inference.video_input import choose_sampling, open_for_model, picture_size
from videoxl.model.configuration import VideoXLConfig
from videoxl.training.data.media import Kind, shown
from videoxl.video import VideoLimits, VideoSource
from videoxl.video.anyres import AspectRatio, still_crops
from videoxl.video.local_file import display_name, file_digest, open_local

MOST_SCALE = 1e6


@dataclass(frozen=True)
class Picture:
    """One picture or video of a record, read."""

    pixels_FHWC: torch.Tensor | None
    """uint8: its frames, or its crops with the whole picture first. None where there are features."""
    span: tuple[int, ...]
    """The ids that stand for it in a prompt."""
    times_F: tuple[float, ...]
    """Seconds of its frames by the file's own clock; none for crops."""
    features_FPC: torch.Tensor | None = None
    """The vision tower's features of its frames."""

    def __len__(self) -> int:
        """Frames or crops."""
        return len(cast(torch.Tensor, self.pixels_FHWC if self.features_FPC is None else self.features_FPC))


def time_scale(record: Mapping[str, object]) -> float:
    """``scale`` of a record: what the times of its frames are multiplied by before the model is told them.

    So a video that was stored slower or faster than the clock its conversations speak of keeps true times.
    """
    scale = record.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale <= MOST_SCALE:
        given = "a number without end" if isinstance(scale, int) and scale > MOST_SCALE else shown(scale)
        raise TrainingDataError(
            f"scale must be a number above 0 (times of frames are multiplied by it) and at most {MOST_SCALE:,.0f}, "
            f"got {given}"
        )
    return float(scale)


class PictureReader:
    """Reads pictures for one model: the frames, sizes and times that the engine would give it."""

    def __init__(
        self,
        config: VideoXLConfig,
        tokenize: Tokenize,
        sampling: Sampling,
        *,
        prefill: PrefillStrategy | None = None,
        limits: VideoLimits | None = None,
    ) -> None:
        """``prefill``: how the model will read videos; it decides whether an unfilled last group of frames stays."""
        self.config = config
        self.tokenize = tokenize
        self.sampling = sampling
        self.whole_groups_of = sampled_in_multiples_of(prefill or FullPrefill(), config)
        self.limits = limits or VideoLimits()

    def crops(self, kind: Kind) -> bool:
        """Whether pictures of this kind become crops (``image_aspect_ratio``) and stand in a prompt without a time.

        Where the model's config says nothing of stills, one is a frame, as the engine reads it.
        """
        return kind == "image" and self.config.stills != "frame"

    def read(self, path: str, kind: Kind, scale: float = 1.0) -> Picture:
        """One picture or video. Raises ``VideoError`` or :class:`TrainingDataError`."""
        try:
            with open_for_model(path, strict=True, limits=self.limits) as source:
                return self._crops(source) if self.crops(kind) else self._frames(source, scale)
        except (EOFError, IndexError, TypeError, KeyError, struct.error, zlib.error, SyntaxError) as error:
            # what Pillow's decoders may raise for damaged pictures, beside the OSError it documents
            raise TrainingDataError(f"{display_name(path)}: not a readable picture ({error!r})") from error

    def _frames(self, source: VideoSource, scale: float) -> Picture:
        sampling, groups = self.sampling, 1
        if not source.is_still:
            sampling, groups = choose_sampling(
                source, {}, sampling=self.sampling, frames_per_group=self.whole_groups_of
            )
        selection = source.select(sampling, whole_groups_of=groups)
        size = picture_size(source, self.config.image_size, self.config.frame_fit)
        batches = list(source.read(selection, resize=size))
        if not batches:
            raise VideoError(f"{source.name}: no frame could be decoded", code="undecodable")
        times = tuple(float(seconds) for batch in batches for seconds in batch.timestamps_F)
        pixels = torch.from_numpy(np.concatenate([batch.pixels_FHWC for batch in batches]))
        return Picture(pixels, self.span(times, scale), times)

    def span(self, times_F: Sequence[float], scale: float) -> tuple[int, ...]:
        """The ids of a video's visual span, its times told ``scale`` times as large."""
        return span_for(self.config, [scale * seconds for seconds in times_F], self.tokenize).ids

    def _crops(self, source: VideoSource) -> Picture:
        if not source.is_still:
            raise TrainingDataError(f"{source.name} is a video: name it under 'video', not 'image'")
        (picture,) = (
            frame
            for batch in source.read(source.select(Sampling(indices=(0,))), resize=None)
            for frame in batch.pixels_FHWC
        )
        crops = still_crops(
            picture,
            cast(AspectRatio, self.config.stills),
            self.config.image_size,
            pinpoints=self.config.image_grid_pinpoints,
            fit=self.config.frame_fit,
            mean=self.config.image_mean,
        )
        ids = (self.config.image_token_id,) * self.config.image_tokens(len(crops))
        return Picture(torch.from_numpy(crops), ids, ())


def digest_of(path: str) -> str | None:
    """Tells video files apart by their content; None for a folder. Raises ``VideoError`` for what cannot be read."""
    if os.path.isdir(path):
        return None
    file = open_local(path)
    try:
        return file_digest(file.fd)
    finally:
        file.close()
