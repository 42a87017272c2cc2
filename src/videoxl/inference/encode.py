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
from videoxl.memory.video_memory import Seen, Tail, VideoMemory
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

    def seen(self, before: Seen | None = None) -> Seen | None:
        """What it saw of all frames; ``before``: of those read earlier."""
        if self.siglip is None:
            return None
        if before is not None:
            return replace(before, features_FD=torch.cat([before.features_FD, *self.looked]))
        return Seen(torch.cat(self.looked), self.siglip.name, self.siglip.fingerprint)

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


def encode(engine: VideoXL, job: Job, progress: Progress) -> VideoMemory:
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
    return VideoMemory(
        cache=filled.cache,
        token_ids=filled.token_ids,
        prefix_length=filled.prefix_length,
        groups=filled.span.groups,
        timestamps=filled.timestamps,
        prefill=str(job.strategy),
        model_fingerprint=engine.fingerprint,
        usage=_usage(engine, filled, job, captions),
        warnings=(*job.source.warnings, *([note] if note else []), *filled.notes),
        tail=None if job.source.is_still else filled.tail,
        seen=job.seen(),
        reader=engine,
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


def _captions(engine: VideoXL, job: Job, memory: VideoMemory | None = None) -> Captions | None:
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
    if memory is None or memory.usage.get("subtitles") is None:
        return placed
    span_ids = memory.token_ids[memory.prefix_length :]
    read = memory.usage["subtitles"]
    earlier = Captions.read_before(span_ids, memory.groups, chat_format.tokenize, config.time_format, read)
    return placed.after(earlier) if placed else earlier


def _usage(engine: VideoXL, filled: Prefilled, job: Job, captions: Captions | None) -> dict[str, Any]:
    return {
        "frames": len(filled.timestamps),
        "video_seconds": filled.span.groups[-1].end_s - filled.span.groups[0].start_s,
        "visual_tokens": filled.span.visual_tokens,
        "memory_tokens": len(filled.token_ids),
        "memory_bytes": filled.cache.nbytes,
        "window_ratios": filled.window_ratios,
        "peak_gpu_bytes": peak_bytes(engine.device),
        "seconds": filled.seconds,
        "sampling": str(job.sampling),
        "source": job.source.name,
        "digest": job.source.digest,
        "reader": job.source.info.reader,
        "still": job.source.is_still,
        "subtitles": captions.cues if captions else None,
    }


# ------------------------------------------------------------------------------------------------------------ extend


def extend(
    engine: VideoXL,
    memory: VideoMemory,
    video: Any,
    *,
    fps: float | None = None,
    timestamps: Any = None,
    subtitles: Any = None,
    progress: bool | Progress = False,
    **settings: Any,
) -> None:
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
        if memory.seen is not None:
            job = replace(job, siglip=who_saw(engine, memory.seen))
        batches = chain(_tail_batch(memory), _later(_batches(engine, job), shift, last))
        before = _settled(engine, memory, strategy)
        with _restored_on_failure(memory.cache, before.tokens):
            stream = tiles(batches, frames_per_tile(strategy, engine.config))
            prefix = list(memory.token_ids[: memory.prefix_length])
            filled = _run(engine, job, stream, prefix, as_progress(progress), before=before, captions=captions)
        _take_over(engine, memory, filled, job, captions)


def _check_extensible(memory: VideoMemory, strategy: PrefillStrategy) -> None:
    if isinstance(strategy, SelectivePrefill):
        raise ValueError("what Video-XL-Pro keeps depends on the whole video: it cannot be extended, encode it anew")
    if isinstance(strategy, BeaconPrefill) and strategy.mix == "adaptive":
        raise ValueError(
            "mix='adaptive' chose its ratio for the length the video had: encode the longer one, or use a fixed ratio"
        )
    if memory.usage["still"]:
        raise ValueError("a still picture has no end to go on from: encode the video")


def _step(memory: VideoMemory) -> float:
    """Seconds between frames, by the median."""
    gaps = [b - a for a, b in pairwise(memory.timestamps)]
    return float(np.median(gaps)) if gaps and np.median(gaps) > 0 else 1.0


@dataclass(frozen=True)
class _Batch:
    pixels_FHWC: np.ndarray
    timestamps_F: np.ndarray


def _tail_batch(memory: VideoMemory) -> Iterator[_Batch]:
    if memory.tail is not None:
        pixels = memory.tail.pixels_FHWC
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


def _settled(engine: VideoXL, memory: VideoMemory, strategy: PrefillStrategy) -> Before:
    """What stays as it is, whatever follows."""
    tokens = memory.tail.settled_tokens if memory.tail else len(memory.token_ids)
    frames = memory.frames - (len(memory.tail.pixels_FHWC) if memory.tail else 0)
    return Before(memory.cache, memory.token_ids[:tokens], memory.timestamps[:frames])


class _restored_on_failure:  # noqa: N801  (used as a statement)
    """Cuts a cache to its first ``settled`` tokens; if the body fails, puts back what was there."""

    def __init__(self, cache: KVCache, settled: int) -> None:
        self.cache, self.settled = cache, settled
        self.saved = [
            (layer.keys[..., settled:, :].clone(), layer.values[..., settled:, :].clone()) for layer in cache.layers
        ]

    def __enter__(self) -> None:
        self.cache.truncate(self.settled)

    @torch.inference_mode()  # the buffers were made in it, and only in it may they be written to
    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            return
        self.cache.truncate(self.settled)
        for number, (keys, values) in enumerate(self.saved):
            self.cache.update(keys, values, number)


def _take_over(engine: VideoXL, memory: VideoMemory, filled: Prefilled, job: Job, captions: Captions | None) -> None:
    """The last step: from here on nothing can fail."""
    paid, usage = memory.usage, _usage(engine, filled, job, captions)
    phases = {**paid["seconds"], **usage["seconds"]}
    usage["seconds"] = {n: round(paid["seconds"].get(n, 0.0) + usage["seconds"].get(n, 0.0), 6) for n in phases}
    kept = {name: paid[name] for name in ("sampling", "source", "digest", "reader", "still")}
    memory.cache, memory.token_ids = filled.cache, filled.token_ids
    memory.groups, memory.timestamps = filled.span.groups, filled.timestamps
    memory.usage = {**usage, **kept, "extended": paid.get("extended", 0) + 1}
    lasting = (text for text in memory.warnings if not text.startswith(UNKEPT))
    memory.warnings = (*lasting, *job.source.warnings, *filled.notes)
    memory.tail, memory.seen = filled.tail, job.seen(memory.seen)


# -------------------------------------------------------------------------------------------------------------- trim


@torch.inference_mode()
def trim(engine: VideoXL, memory: VideoMemory, *, start: float | None, end: float | None) -> None:
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
    cache = _without(engine, memory.cache, head, begin, stop) if moved else memory.cache.fork()
    cache.truncate(stop - moved)
    memory.cache = cache
    memory.token_ids = (*memory.token_ids[:head], *memory.token_ids[begin:stop])
    memory.groups = tuple(
        replace(
            group,
            token_start=group.token_start - moved,
            visual_start=group.visual_start - moved,
            token_end=group.token_end - moved,
        )
        for group in groups[first:last]
    )
    memory.timestamps = memory.timestamps[first * per_group : last * per_group]
    if memory.seen is not None:
        kept = memory.seen.features_FD[first * per_group : last * per_group]
        memory.seen = replace(memory.seen, features_FD=kept.clone())
    if last < len(groups):
        memory.tail = None
    elif memory.tail is not None:
        memory.tail = Tail(memory.tail.pixels_FHWC, memory.tail.settled_tokens - moved)
    memory.usage = {
        **memory.usage,
        "frames": memory.frames,
        "video_seconds": memory.duration,
        "visual_tokens": sum(g.token_end - g.visual_start for g in memory.groups),
        "memory_tokens": len(memory.token_ids),
        "memory_bytes": memory.nbytes,
    }


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
