"""Read a video into a memory: a request is planned, its frames become tiles, and a prefill strategy reads them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch

from videoxl.cues import TrackKind
from videoxl.errors import VideoError
from videoxl.inference.decode.siglip import SiglipRelevance
from videoxl.inference.hardware import peak_bytes, reset_peak
from videoxl.inference.kv_dtype import quantisations, usable_kv_dtype
from videoxl.inference.plan.fit import require_fit
from videoxl.inference.plan.reading import ReadPlan, plan_reading
from videoxl.inference.prefill.choose import frames_per_tile, make_prefiller
from videoxl.inference.prefill.prefiller import PrefillState
from videoxl.inference.prefill.read import Prefilled, PrefillRunner
from videoxl.inference.prefill.tiles import Tile, tiles
from videoxl.inference.progress import Progress
from videoxl.inference.prompt import ChatFormat
from videoxl.inference.request import EncodeRequest
from videoxl.inference.subtitles import PlacedSubtitles, check_place
from videoxl.inference.tracks import read_part
from videoxl.memory.kv_cache import SPARE_TOKENS
from videoxl.memory.quantised import kv_dtype_of, quantised_cache
from videoxl.memory.types import FrameEmbeddings, MemoryState, ReadStats
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.video.anyres import AspectRatio, still_crops
from videoxl.video.frames import Frames

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadContext:
    """What reading needs of an engine."""

    model: VideoXLForConditionalGeneration
    chat_format: ChatFormat
    fingerprint: str
    """Fingerprint of the model, for the memory that results."""

    @property
    def config(self) -> VideoXLConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where ids go in."""
        return self.model.model.text_device


class FrameEmbedder:
    """Embeds frames with SigLIP as they pass on their way to the model."""

    def __init__(self, siglip: SiglipRelevance) -> None:
        self.siglip = siglip
        self._parts: list[torch.Tensor] = []

    def passing(self, batches: Iterable[Frames]) -> Iterator[Frames]:
        """Yield the same batches."""
        for batch in batches:
            self._parts.append(self.siglip.encode_frames(batch.pixels_FHWC))
            yield batch

    def embeddings(self, earlier: FrameEmbeddings | None = None) -> FrameEmbeddings:
        """Embeddings of all frames that passed, after ``earlier`` ones."""
        if earlier is not None:
            return replace(earlier, features_FD=torch.cat([earlier.features_FD, *self._parts]))
        return FrameEmbeddings(torch.cat(self._parts), self.siglip.name, self.siglip.fingerprint)


def encode(
    context: ReadContext,
    request: EncodeRequest,
    progress: Progress,
    embedder: FrameEmbedder | None = None,
    behind: PrefillState | None = None,
) -> MemoryState:
    """Read what was requested. ``embedder`` is given the same frames. ``behind``: what was read before the video, in
    the place of the prompt's head.

    Raises ``VideoError`` when no frame can be decoded, ``DoesNotFitError`` before the first one is decoded, and
    ``ValueError`` for subtitles that have no place.
    """
    config = request.config
    check_subtitles(config, request)
    prefix_ids = list(behind.token_ids) if behind else context.chat_format.prefix(request.system)
    plan = None
    if not request.is_open and not request.source.is_still:
        plan = plan_reading(
            config,
            context.chat_format,
            request.strategy,
            request.timestamps,
            prefix_tokens=len(prefix_ids),
            end_s=request.end_s,
            cues=request.cues,
        )
    stills = config.traits.vision.stills
    if request.source.is_still and stills != "frame":
        stream: Iterator[Tile] = iter([_cut(config, request) if stills == "crops" else picture_tile(request)])
    else:
        frames = read_frames(request, embedder)
        stream = tiles(frames, frames_per_tile(request.strategy, config))
    subtitles = plan.subtitles if plan else None
    filled = prefill(
        context,
        request,
        stream,
        prefix_ids,
        plan=plan,
        subtitles=subtitles,
        end_s=request.end_s,
        progress=progress,
        before=behind,
    )
    for warning in (*request.warnings, *filled.warnings):
        logger.warning("%s: %s", request.source.name, warning)
    logger.info("read %d frames of %s: %s", len(filled.timestamps), request.source.name, filled.seconds)
    if not filled.timestamps:
        raise VideoError(f"{request.source.name}: no frame could be decoded", code="undecodable")
    return MemoryState(
        cache=filled.cache,
        token_ids=filled.token_ids,
        prefix_length=filled.prefix_length,
        groups=filled.span.groups,
        timestamps=filled.timestamps,
        prefill=str(request.strategy),
        model_fingerprint=context.fingerprint,
        usage=read_stats(context, request, filled, subtitles),
        warnings=(*request.warnings, *filled.warnings),
        pending=None if request.source.is_still else filled.pending,
        embeddings=embedder.embeddings() if embedder else None,
        tracks=read_part(request.tracks, filled.span.groups[0].start_s, filled.span.groups[-1].end_s),
    )


def check_subtitles(config: VideoXLConfig, request: EncodeRequest) -> None:
    """Raise ``ValueError`` for subtitles that the model, the source or its kind has no place for."""
    if request.cues is None:
        return
    check_place(config.family, config.time_format, still=request.source.is_still)
    if request.is_open:
        raise ValueError("subtitles need frames whose times are known beforehand: an iterator's are not")


def read_frames(request: EncodeRequest, embedder: FrameEmbedder | None = None) -> Iterator[Frames]:
    """Decode the chosen frames at the model's size. Nothing is opened before the first is asked for."""
    batches = request.source.read(request.selection, resize=request.resize)
    yield from embedder.passing(batches) if embedder else batches


def picture_tile(request: EncodeRequest) -> Tile:
    """A still picture as a whole."""
    (batch,) = read_frames(request)
    return Tile(torch.from_numpy(batch.pixels_FHWC), (0.0,), still=True)


def _cut(config: VideoXLConfig, request: EncodeRequest) -> Tile:
    """Cut a still picture into crops for Video-XL (SPEC 2.1)."""
    batches = request.source.read(request.selection, resize=None)
    (picture,) = (frame for batch in batches for frame in batch.pixels_FHWC)
    crops_NHWC = still_crops(
        picture,
        cast(AspectRatio, config.stills),
        config.image_size,
        pinpoints=config.image_grid_pinpoints,
        fit=config.frame_fit,
        mean=config.image_mean,
    )
    return Tile(torch.from_numpy(crops_NHWC), (0.0,), still=True)


def prefill(
    context: ReadContext,
    request: EncodeRequest,
    stream: Iterator[Tile],
    prefix_ids: Sequence[int],
    *,
    plan: ReadPlan | None,
    subtitles: PlacedSubtitles | None,
    end_s: float | None,
    progress: Progress,
    before: PrefillState | None = None,
) -> Prefilled:
    """Run a prefill strategy over the tiles of ``stream``.

    Args:
        plan: what is going to be read, where that is known beforehand; it must fit.
        end_s: the second at which the last group ends; None: one frame distance after the last frame.
        before: what was read before, which this continues.
    """
    runner = PrefillRunner(
        context.model, context.chat_format.tokenize, config=request.config, subtitles=subtitles, progress=progress
    )
    if subtitles and subtitles.left_out:
        count = len(request.cues or ())
        kind = "subtitles" if all(track.kind is TrackKind.SUBTITLES for track in request.tracks) else "cues"
        runner.warnings.append(
            f"{subtitles.left_out} of {count} {kind} are at no time that was read, and were left out"
        )
    held = request.kv_dtype
    if held is not None:
        devices = [layer.device for layer in context.model.model.language_model.decoder_layers]
        held, lacking = usable_kv_dtype(held, devices)
        runner.warnings += [lacking] if lacking else []
    new_cache = None
    if held is not None and before is None:
        new_cache = partial(quantised_cache, quantisations(context.model.model.language_model, held))
    if plan is not None:
        require_fit(context.model, plan.sizes, request.strategy, kv_dtype=held, config=request.config)
    reset_peak(context.device)
    prefiller = make_prefiller(
        request.strategy,
        context.model,
        prefix_ids,
        visual_tokens=plan.span.visual_tokens if plan else None,
        tokens=plan.tokens if plan else 0,
        chat_format=context.chat_format,
        config=request.config,
        still=request.source.is_still,
        spare=SPARE_TOKENS,
        before=before,
        new_cache=new_cache,
    )
    return runner.run(
        prefix_ids,
        stream,
        prefiller=prefiller,
        before=before,
        expected_frames=len(plan.timestamps) if plan else None,
        end_s=end_s,
    )


def read_stats(
    context: ReadContext, request: EncodeRequest, filled: Prefilled, subtitles: PlacedSubtitles | None
) -> ReadStats:
    """Put together what a reading cost."""
    source, groups = request.source, filled.span.groups
    return ReadStats(
        frames=len(filled.timestamps),
        video_seconds=groups[-1].end_s - groups[0].start_s,
        visual_tokens=filled.span.visual_tokens,
        memory_tokens=len(filled.token_ids),
        memory_bytes=filled.cache.nbytes,
        window_ratios=filled.window_ratios,
        peak_gpu_bytes=peak_bytes(context.device),
        seconds=filled.seconds,
        sampling=str(request.sampling),
        source=source.name,
        digest=source.digest,
        reader=source.info.reader,
        still=source.is_still,
        subtitles=subtitles.cues if subtitles else None,
        kv_dtype=kv_dtype_of(filled.cache),
    )
