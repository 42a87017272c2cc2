"""Read a video into a memory, read on where one ends, and forget parts of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from videoxl.config import (
    DEFAULT_SYSTEM_PROMPT,
    BeaconPrefill,
    PrefillStrategy,
    Sampling,
    SelectivePrefill,
    prefill_from_string,
)
from videoxl.errors import VideoError
from videoxl.inference.decode.siglip import SiglipRelevance, who_saw
from videoxl.inference.hardware import peak_bytes, reset_peak
from videoxl.inference.plan.footprint import ROOM_FOR_QUESTIONS, Sizes
from videoxl.inference.plan.planner import require_fit
from videoxl.inference.prefill.beacon import UNKEPT
from videoxl.inference.prefill.choose import Before, frames_per_tile, make_writer, sampled_in_multiples_of
from videoxl.inference.prefill.read import Prefill, Prefilled, Tile, tiles
from videoxl.inference.progress import Progress, as_progress
from videoxl.inference.prompt import span_for
from videoxl.inference.subtitles import Captions, check_place, cues_of, later_cues
from videoxl.inference.video_input import choose_sampling, end_of, open_for_model, picture_size
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import Group
from videoxl.memory.types import FrameEmbeddings, MemoryState, ReadStats
from videoxl.model.configuration import VIDEO_XL
from videoxl.video import Selection, VideoSource
from videoxl.video.anyres import cut_crops
from videoxl.video.frames import OpenSelection
from videoxl.video.subtitles import Cue

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL


@dataclass(frozen=True)
class Job:
    """One reading: what from, which frames, and how."""

    source: VideoSource
    selection: Selection
    sampling: Sampling
    strategy: PrefillStrategy
    system: str = DEFAULT_SYSTEM_PROMPT
    cues: tuple[Cue, ...] | None = None
    """Subtitles to be read with the frames; None: there are none."""
    goes_on: bool = False
    """Whether this is more of a video that was read before."""
    shift: float = 0.0
    """Seconds by which its frames are later than they say."""
    siglip: SiglipRelevance | None = None
    """What looks at the frames as well."""
    looked: list[torch.Tensor] = field(default_factory=list)
    """What it saw so far: ``[F, D]`` of every batch."""

    def embeddings(self, before: FrameEmbeddings | None = None) -> FrameEmbeddings | None:
        """What it saw of all frames; ``before``: of those read earlier."""
        if self.siglip is None:
            return None
        if before is not None:
            return replace(before, features_FD=torch.cat([before.features_FD, *self.looked]))
        return FrameEmbeddings(torch.cat(self.looked), self.siglip.name, self.siglip.fingerprint)

    @property
    def times(self) -> list[float]:
        """Of the frames, where they are known beforehand."""
        return (self.selection.timestamps_F + self.shift).tolist()

    @property
    def end_s(self) -> float | None:
        """When the last group ends, where that is known."""
        if self.goes_on and self.source.info.reader == "memory":
            return None  # a few pictures do not know their own rate
        return end_of(self.source, self.sampling)


def open_job(
    source: VideoSource,
    given: dict[str, Any],
    engine: VideoXL,
    strategy: PrefillStrategy,
    *,
    frames: Any = None,
    sampling: Sampling | None = None,
    system: str = DEFAULT_SYSTEM_PROMPT,
    subtitles: Any = None,
) -> Job:
    """Choose the frames."""
    wanted, whole_groups_of = choose_sampling(
        source,
        given,
        frames=frames,
        sampling=sampling,
        frames_per_group=sampled_in_multiples_of(strategy, engine.config),
    )
    selection = source.select(wanted, whole_groups_of=whole_groups_of)
    cues = None if subtitles is None else cues_of(subtitles)
    return Job(source, selection, wanted, strategy, system, cues)


def encode(engine: VideoXL, job: Job, progress: Progress) -> MemoryState:
    """Decode, see and prefill, tile by tile."""
    prefix = engine.chat_format.prefix(job.system)
    if job.source.is_still and engine.config.family == VIDEO_XL:
        stream: Iterator[Tile] = iter([_still(engine, job)])
    else:
        stream = tiles(_batches(engine, job), frames_per_tile(job.strategy, engine.config))
    captions = _captions(engine, job)
    filled = _run(engine, job, stream, prefix, progress, captions=captions)
    if not filled.timestamps:
        raise VideoError(f"{job.source.name}: no frame could be decoded", code="undecodable")
    note = job.selection.note
    return MemoryState(
        cache=filled.cache,
        token_ids=filled.token_ids,
        prefix_length=filled.prefix_length,
        groups=filled.span.groups,
        timestamps=filled.timestamps,
        prefill=str(job.strategy),
        model_fingerprint=engine.fingerprint,
        usage=_usage(engine, filled, job, captions),
        warnings=(*job.source.warnings, *([note] if note else []), *filled.notes),
        pending=None if job.source.is_still else filled.pending,
        embeddings=job.embeddings(),
    )


def _batches(engine: VideoXL, job: Job) -> Iterator[Any]:
    """The frames; nothing is opened before the first is asked for."""
    config = engine.config
    for batch in job.source.read(job.selection, resize=picture_size(job.source, config.image_size, config.frame_fit)):
        if job.siglip is not None:
            job.looked.append(job.siglip.see(batch.pixels_FHWC))
        yield batch


def _still(engine: VideoXL, job: Job) -> Tile:
    """A still picture for Video-XL, cut into crops (SPEC 2.1)."""
    (picture,) = (frame for batch in job.source.read(job.selection, resize=None) for frame in batch.pixels_FHWC)
    config = engine.config
    crops_NHWC = cut_crops(picture, config.image_grid_pinpoints, config.image_size)
    return Tile(torch.from_numpy(crops_NHWC), (0.0,), still=True)


def _run(
    engine: VideoXL,
    job: Job,
    stream: Iterator[Tile],
    prefix: list[int],
    progress: Progress,
    *,
    before: Before | None = None,
    captions: Captions | None = None,
) -> Prefilled:
    config, prefill = engine.config, Prefill(engine.model, engine.chat_format.tokenize, progress=progress)
    prefill.captions = captions
    if captions and captions.left_out:
        prefill.notes.append(
            f"{captions.left_out} of {len(job.cues or ())} subtitles are at no time that was read, and were left out"
        )
    frames: int | None = None
    tokens, visual_tokens = 0, None
    times = list(before.timestamps) if before else []
    if not isinstance(job.selection, OpenSelection) and not job.source.is_still:  # their length shows at the end
        frames = len(times) + len(job.selection)
        span = prefill.span_of([*times, *job.times])
        require_fit(engine.model, Sizes.of(job.strategy, config, frames, len(prefix), span), job.strategy)
        tokens, visual_tokens = len(prefix) + len(span.ids), span.visual_tokens
    reset_peak(engine.device)
    writer = make_writer(
        job.strategy,
        engine.model,
        prefix,
        visual_tokens=visual_tokens,
        tokens=tokens,
        chat_format=engine.chat_format,
        room=ROOM_FOR_QUESTIONS,
        before=before,
    )
    return prefill.run(
        prefix,
        stream,
        writer=writer,
        before=times,
        expected_frames=frames,
        end_s=job.end_s,
    )


def _captions(engine: VideoXL, job: Job, memory: MemoryState | None = None) -> Captions | None:
    """What is said in the frames of ``job``, and in those of ``memory`` before them."""
    config, chat_format = engine.config, engine.chat_format
    placed = None
    if job.cues is not None:
        check_place(config.family, config.time_format, still=job.source.is_still)
        if isinstance(job.selection, OpenSelection):
            raise ValueError("subtitles need frames whose times are known beforehand: an iterator's are not")
        cues = later_cues(job.cues, memory.groups[-1].end_s, job.times[0]) if memory else job.cues
        times = [*memory.timestamps, *job.times] if memory else job.times  # how long a frame is one alone cannot tell
        end_s = span_for(config, times, chat_format.tokenize, job.end_s).groups[-1].end_s
        placed = Captions.place(cues, job.times, end_s, chat_format.tokenize_user)
    if memory is None or memory.usage.subtitles is None:
        return placed
    span_ids = memory.token_ids[memory.prefix_length :]
    read = memory.usage.subtitles
    earlier = Captions.read_before(span_ids, memory.groups, chat_format.tokenize, config.time_format, read)
    return placed.after(earlier) if placed else earlier


def _usage(engine: VideoXL, filled: Prefilled, job: Job, captions: Captions | None) -> ReadStats:
    return ReadStats(
        frames=len(filled.timestamps),
        video_seconds=filled.span.groups[-1].end_s - filled.span.groups[0].start_s,
        visual_tokens=filled.span.visual_tokens,
        memory_tokens=len(filled.token_ids),
        memory_bytes=filled.cache.nbytes,
        window_ratios=filled.window_ratios,
        peak_gpu_bytes=peak_bytes(engine.device),
        seconds=filled.seconds,
        sampling=str(job.sampling),
        source=job.source.name,
        digest=job.source.digest,
        reader=job.source.info.reader,
        still=job.source.is_still,
        subtitles=captions.cues if captions else None,
    )


# ------------------------------------------------------------------------------------------------------------ extend


def extend(
    engine: VideoXL,
    memory: MemoryState,
    video: Any,
    *,
    fps: float | None = None,
    timestamps: Any = None,
    subtitles: Any = None,
    progress: bool | Progress = False,
    **settings: Any,
) -> MemoryState:
    """See :meth:`VideoMemory.extend`. ``subtitles``: as in ``encode``, of the whole video or of what is new; those that
    begin before the memory's end were read with it."""
    strategy = prefill_from_string(memory.prefill)
    _check_extensible(memory, strategy)
    last, step = memory.timestamps[-1], _step(memory)
    with open_for_model(video, fps=fps or 1 / step, timestamps=timestamps) as source:
        pictures = source.info.reader == "memory"
        counted = pictures and timestamps is None  # the times it has were given here, from 0
        shift = last + step if counted else 0.0
        if not pictures and source.times_F is not None and not settings.keys() & {"start", "sampling", "frames"}:
            between = 0.5 / source.info.fps if source.info.fps else 0.0
            settings["start"] = max(last + step - between, 0.0)  # the frame due next, not one just before it
        given = {"fps": None if pictures else fps or 1 / step, **settings}
        job = replace(open_job(source, given, engine, strategy, subtitles=subtitles), goes_on=True, shift=shift)
        captions = _captions(engine, job, memory)
        if memory.embeddings is not None:
            job = replace(job, siglip=who_saw(engine, memory.embeddings))
        batches = chain(_tail_batch(memory), _later(_batches(engine, job), shift, last))
        before = _settled(engine, memory, strategy)
        stream = tiles(batches, frames_per_tile(strategy, engine.config))
        prefix = list(memory.token_ids[: memory.prefix_length])
        filled = _run(engine, job, stream, prefix, as_progress(progress), before=before, captions=captions)
        return _joined(engine, memory, filled, job, captions)


def _check_extensible(memory: MemoryState, strategy: PrefillStrategy) -> None:
    if isinstance(strategy, SelectivePrefill):
        raise ValueError("what Video-XL-Pro keeps depends on the whole video: it cannot be extended, encode it anew")
    if isinstance(strategy, BeaconPrefill) and strategy.mix == "adaptive":
        raise ValueError(
            "mix='adaptive' chose its ratio for the length the video had: encode the longer one, or use a fixed ratio"
        )
    if memory.usage.still:
        raise ValueError("a still picture has no end to go on from: encode the video")


def _step(memory: MemoryState) -> float:
    """Seconds between frames, by the median."""
    gaps = [b - a for a, b in pairwise(memory.timestamps)]
    return float(np.median(gaps)) if gaps and np.median(gaps) > 0 else 1.0


@dataclass(frozen=True)
class _Batch:
    pixels_FHWC: np.ndarray
    timestamps_F: np.ndarray


def _tail_batch(memory: MemoryState) -> Iterator[_Batch]:
    if memory.pending is not None:
        pixels = memory.pending.pixels_FHWC
        yield _Batch(pixels, np.array(memory.timestamps[-len(pixels) :]))


def _later(batches: Iterable[Any], shift: float, last: float) -> Iterator[_Batch]:
    """The new frames, at times after the ``last`` one."""
    for batch in batches:
        times = np.asarray(batch.timestamps_F, dtype=np.float64) + shift
        if len(times) and times[0] <= last:
            raise ValueError(
                f"new frames must come after the last one, at {last:.3f} s; got one at {times[0]:.3f} s: give their "
                "own timestamps, or start="
            )
        last = float(times[-1]) if len(times) else last
        yield _Batch(batch.pixels_FHWC, times)


def _settled(engine: VideoXL, memory: MemoryState, strategy: PrefillStrategy) -> Before:
    """What stays as it is, whatever follows."""
    tokens = memory.pending.committed_tokens if memory.pending else len(memory.token_ids)
    frames = len(memory.timestamps) - (len(memory.pending.pixels_FHWC) if memory.pending else 0)
    cache = memory.cache.fork()
    cache.truncate(tokens)
    return Before(cache, memory.token_ids[:tokens], memory.timestamps[:frames])


def _joined(
    engine: VideoXL, memory: MemoryState, filled: Prefilled, job: Job, captions: Captions | None
) -> MemoryState:
    """The state after reading on."""
    paid, spent = memory.usage, _usage(engine, filled, job, captions)
    phases = {**paid.seconds, **spent.seconds}
    usage = replace(
        spent,
        seconds={n: round(paid.seconds.get(n, 0.0) + spent.seconds.get(n, 0.0), 6) for n in phases},
        sampling=paid.sampling,
        source=paid.source,
        digest=paid.digest,
        reader=paid.reader,
        still=paid.still,
        extended=paid.extended + 1,
    )
    lasting = (text for text in memory.warnings if not text.startswith(UNKEPT))
    return replace(
        memory,
        cache=filled.cache,
        token_ids=filled.token_ids,
        groups=filled.span.groups,
        timestamps=filled.timestamps,
        usage=usage,
        warnings=(*lasting, *job.source.warnings, *filled.notes),
        pending=filled.pending,
        embeddings=job.embeddings(memory.embeddings),
        coarse_kv={},
    )


# -------------------------------------------------------------------------------------------------------------- trim


@torch.inference_mode()
def trim(engine: VideoXL, memory: MemoryState, *, start: float | None, end: float | None) -> MemoryState:
    """See :meth:`VideoMemory.trim`."""
    strategy = prefill_from_string(memory.prefill)
    if isinstance(strategy, (BeaconPrefill, SelectivePrefill)):
        raise ValueError(f"a memory read with {memory.prefill} has no groups left to forget: encode a part instead")
    groups = memory.groups
    first = sum(start is not None and group.end_s <= start for group in groups)
    last = sum(end is None or group.start_s < end for group in groups)
    if first >= last:
        raise ValueError(
            f"start={start}, end={end} leaves nothing of {groups[0].start_s:.1f} to {groups[-1].end_s:.1f} s"
        )
    head, moved = memory.prefix_length, groups[first].token_start
    begin, stop = head + moved, head + groups[last - 1].token_end
    per_group = engine.config.frames_per_group
    frames = slice(first * per_group, last * per_group)
    cache = _without(engine, memory.cache, head, begin, stop) if moved else memory.cache.fork()
    cache.truncate(stop - moved)
    embeddings, pending = memory.embeddings, None
    if embeddings is not None:
        embeddings = replace(embeddings, features_FD=embeddings.features_FD[frames].clone())
    if last == len(groups) and memory.pending is not None:
        pending = replace(memory.pending, committed_tokens=memory.pending.committed_tokens - moved)
    kept = replace(
        memory,
        cache=cache,
        token_ids=(*memory.token_ids[:head], *memory.token_ids[begin:stop]),
        groups=tuple(_moved(group, moved) for group in groups[first:last]),
        timestamps=memory.timestamps[frames],
        pending=pending,
        embeddings=embeddings,
        coarse_kv={},
    )
    usage = replace(
        memory.usage,
        frames=len(kept.timestamps),
        video_seconds=kept.duration,
        visual_tokens=sum(g.token_end - g.visual_start for g in kept.groups),
        memory_tokens=len(kept.token_ids),
        memory_bytes=kept.nbytes,
    )
    return replace(kept, usage=usage)


def _moved(group: Group, tokens: int) -> Group:
    """The same group ``tokens`` tokens further to the front."""
    return replace(
        group,
        token_start=group.token_start - tokens,
        visual_start=group.visual_start - tokens,
        token_end=group.token_end - tokens,
    )


def _without(engine: VideoXL, cache: KVCache, head: int, begin: int, stop: int) -> KVCache:
    """A cache of tokens ``[0, head)`` and ``[begin, stop)``, the latter moved to the positions after the former."""
    rotate = engine.model.model.language_model.rotate
    out = KVCache(len(cache.layers), reserve=head + stop - begin + ROOM_FOR_QUESTIONS)
    for number, layer in enumerate(cache.layers):
        distance = torch.full((stop - begin,), begin - head, device=layer.keys.device)
        moved = rotate(layer.keys[..., begin:stop, :], distance, back=True)
        keys = torch.cat([layer.keys[..., :head, :], moved], dim=2)
        values = torch.cat([layer.values[..., :head, :], layer.values[..., begin:stop, :]], dim=2)
        out.update(keys, values, number)
    return out
