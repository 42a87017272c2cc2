"""Extend a memory: read what follows as if it had been there from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np

from videoxl.config import PrefillStrategy, Sampling, prefill_from_string
from videoxl.inference.decode.siglip import SiglipRelevance
from videoxl.inference.encode import (
    FrameEmbedder,
    ReadContext,
    check_subtitles,
    prefill,
    read_frames,
    read_stats,
)
from videoxl.inference.plan.reading import ReadBefore, plan_reading
from videoxl.inference.prefill.beacon import UNKEPT
from videoxl.inference.prefill.choose import frames_per_tile
from videoxl.inference.prefill.prefiller import PrefillState
from videoxl.inference.prefill.tiles import tiles
from videoxl.inference.progress import Progress, as_progress
from videoxl.inference.prompt import VisualSpan, group_time, time_text
from videoxl.inference.request import EncodeRequest, open_request
from videoxl.inference.subtitles import PlacedSubtitles
from videoxl.inference.tracks import grown, read_part
from videoxl.inference.video_input import open_for_model
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.types import MemoryState, ReadStats
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families.family import Family
from videoxl.video import VideoSource
from videoxl.video.frames import Frames


def extend(
    context: ReadContext,
    memory: MemoryState,
    video: object,
    *,
    committed_cache: Callable[[], KVCache],
    siglip: SiglipRelevance | None = None,
    fps: float | None = None,
    timestamps: Sequence[float] | None = None,
    frames: Iterable[float] | None = None,
    sampling: Sampling | None = None,
    subtitles: object = None,
    tracks: object = (),
    progress: bool | Progress = False,
    **given: Any,
) -> MemoryState:
    """Return the state of a memory that goes on with ``video``; see :meth:`VideoMemory.extend`.

    Args:
        memory: its state so far; keys and values are not read from it.
        committed_cache: makes a cache of the tokens that stay whatever follows, to append to. Called once, when
            everything else has been checked.
        siglip: embeds the new frames, where those before were embedded.
        fps, timestamps, frames, sampling, given: as in ``encode``; a file is read at the rate of the frames before.
        subtitles, tracks: as in ``encode``, of the whole video or of what is new; cues that begin before the memory's
            end were read with it.
    """
    strategy = prefill_from_string(memory.prefill)
    _check_extensible(context.config.traits, memory, strategy)
    last, step = memory.timestamps[-1], _step(memory)
    with open_for_model(video, fps=fps or 1 / step, timestamps=timestamps) as source:
        if source.times_F is None and frames is None and sampling is None:
            given["fps"] = fps or 1 / step
        elif source.times_F is None:
            given["fps"] = fps
        elif source.info.reader != "memory" and frames is None and sampling is None:
            between = 0.5 / source.info.fps if source.info.fps else 0.0
            given.setdefault("start", max(last + step - between, 0.0))  # the frame due next, not one just before it
            given["fps"] = fps or 1 / step
        request = open_request(
            source,
            given,
            context.config,
            strategy,
            frames=frames,
            sampling=sampling,
            subtitles=subtitles,
            tracks=tracks,
            progress=as_progress(progress),
            kv_dtype=memory.usage.kv_dtype,
        )
        if memory.grid is not None:  # the pictures of one memory are of one size
            rows, columns = memory.grid
            side = context.config.token_side
            request = replace(request, config=context.config.with_picture(rows * side, columns * side))
        shift = last + step if _counts_from_zero(source) else 0.0
        return _read_on(context, memory, request, shift, committed_cache, siglip, as_progress(progress))


def _check_extensible(family: Family, memory: MemoryState, strategy: PrefillStrategy) -> None:
    if reason := family.support(strategy).refuse_extend(strategy):
        raise ValueError(reason)
    if memory.usage.still:
        raise ValueError("a still picture has no end to go on from: encode the video")


def _step(memory: MemoryState) -> float:
    """Median of the seconds between frames; 1 for a single frame."""
    gaps = [b - a for a, b in pairwise(memory.timestamps)]
    return float(np.median(gaps)) if gaps and np.median(gaps) > 0 else 1.0


def _counts_from_zero(source: VideoSource) -> bool:
    """Whether the times of pictures were made up from a rate, beginning at 0. Times that somebody gave are kept."""
    return source.info.reader == "memory" and source.times_F is not None and not source.times_given


def _read_on(
    context: ReadContext,
    memory: MemoryState,
    request: EncodeRequest,
    shift: float,
    committed_cache: Callable[[], KVCache],
    siglip: SiglipRelevance | None,
    progress: Progress,
) -> MemoryState:
    """Plan, read, and put the new state together. ``shift``: seconds to add to the times of the new frames."""
    config, end_s = request.config, None if request.source.info.reader == "memory" else request.end_s
    check_subtitles(config, request)
    kept = _committed_span(memory, config)
    read_again = _subtitles_of(context, memory, len(kept.groups))
    before, plan = ReadBefore(memory.timestamps, memory.groups[-1].end_s, kept, read_again), None
    if not request.is_open and not request.source.is_still:
        plan = plan_reading(
            config,
            context.chat_format,
            request.strategy,
            [time + shift for time in request.timestamps],
            prefix_tokens=memory.prefix_length,
            end_s=end_s,
            cues=request.cues,
            before=before,
        )
    subtitles = plan.subtitles if plan else before.subtitles
    embedder = FrameEmbedder(siglip) if siglip else None
    new = _later(read_frames(request, embedder), shift, memory.timestamps[-1])
    filled = prefill(
        context,
        request,
        tiles(chain(_pending_frames(memory), new), frames_per_tile(request.strategy, config)),
        memory.token_ids[: memory.prefix_length],
        plan=plan,
        subtitles=subtitles,
        progress=progress,
        end_s=end_s,
        before=_committed(memory, committed_cache, kept),
    )
    outdated = tuple(text for text in memory.warnings if text.startswith(UNKEPT))
    return replace(
        memory,
        cache=filled.cache,
        token_ids=filled.token_ids,
        groups=filled.span.groups,
        timestamps=filled.timestamps,
        usage=_total(memory.usage, read_stats(context, request, filled, subtitles)),
        warnings=(
            *(text for text in memory.warnings if text not in outdated),
            *request.source.warnings,
            *filled.warnings,
        ),
        pending=filled.pending,
        embeddings=embedder.embeddings(memory.embeddings) if embedder else None,
        tracks=read_part(
            grown(memory.tracks, request.tracks, memory.groups[-1].end_s),
            filled.span.groups[0].start_s,
            filled.span.groups[-1].end_s,
        ),
        coarse_kv={},
    )


def _subtitles_of(context: ReadContext, memory: MemoryState, first: int) -> PlacedSubtitles | None:
    """Recover from its ids the subtitles read with the groups of a memory from number ``first`` on."""
    if memory.usage.subtitles is None:
        return None
    span_ids, time_format = memory.token_ids[memory.prefix_length :], context.config.time_format
    tokenize, layout = context.chat_format.tokenize, context.config.traits.tokens
    around = [len(tokenize(text)) if text else 0 for text in (layout.opening, layout.closing)]
    per_group, times = context.config.frames_per_group, memory.timestamps
    told = [group_time(layout, times[begin : begin + per_group]) for begin in range(0, len(times), per_group)]
    return PlacedSubtitles.read_before(
        span_ids,
        memory.groups[first:],
        [len(tokenize(time_text(time, time_format))) for time in told[first:]],
        memory.usage.subtitles,
        opening=around[0],
        closing=[around[1] * (number > 0) for number in range(first, len(told))],
    )


@dataclass(frozen=True)
class _Batch:
    pixels_FHWC: np.ndarray
    timestamps_F: np.ndarray


def _pending_frames(memory: MemoryState) -> Iterator[_Batch]:
    """The frames at the end of a memory that must be read again."""
    if memory.pending is not None:
        pixels = memory.pending.pixels_FHWC
        yield _Batch(pixels, np.array(memory.timestamps[-len(pixels) :]))


def _later(batches: Iterable[Frames], shift: float, last: float) -> Iterator[_Batch]:
    """Shift the times of new frames. Raises ``ValueError`` for one that does not come after the ``last`` frame."""
    for batch in batches:
        times = np.asarray(batch.timestamps_F, dtype=np.float64) + shift
        if len(times) and times[0] <= last:
            raise ValueError(
                f"new frames must come after the last one, at {last:.3f} s; got one at {times[0]:.3f} s: give their "
                "own timestamps, or start="
            )
        last = float(times[-1]) if len(times) else last
        yield _Batch(batch.pixels_FHWC, times)


def _committed(memory: MemoryState, committed_cache: Callable[[], KVCache], span: VisualSpan) -> PrefillState:
    """What stays as it is, whatever follows."""
    tokens = memory.pending.committed_tokens if memory.pending else len(memory.token_ids)
    frames = _committed_frames(memory)
    return PrefillState(committed_cache(), memory.token_ids[:tokens], memory.timestamps[:frames], span)


def _committed_frames(memory: MemoryState) -> int:
    return len(memory.timestamps) - (len(memory.pending.pixels_FHWC) if memory.pending else 0)


def _committed_span(memory: MemoryState, config: VideoXLConfig) -> VisualSpan:
    """Ids and groups of the frames that stay; of compressed ones the ids are those of visual tokens."""
    groups = memory.groups[: _committed_frames(memory) // config.frames_per_group]
    end, begin = groups[-1].token_end if groups else 0, memory.prefix_length
    if len(memory.token_ids) - begin < memory.groups[-1].token_end:
        return VisualSpan((config.video_token_id,) * end, groups)
    return VisualSpan(memory.token_ids[begin : begin + end], groups)


def _total(before: ReadStats, new: ReadStats) -> ReadStats:
    """Statistics of the whole memory: seconds are summed, the source stays the first one."""
    phases = {**before.seconds, **new.seconds}
    return replace(
        new,
        seconds={n: round(before.seconds.get(n, 0.0) + new.seconds.get(n, 0.0), 6) for n in phases},
        sampling=before.sampling,
        source=before.source,
        digest=before.digest,
        reader=before.reader,
        still=before.still,
        extended=before.extended + 1,
    )
