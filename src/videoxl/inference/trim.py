"""Trim a memory: forget the groups of frames at its beginning or its end."""

from __future__ import annotations

from dataclasses import replace

import torch

from videoxl.config import prefill_from_string
from videoxl.inference.encode import ReadContext
from videoxl.inference.tracks import read_part
from videoxl.memory.host_cache import HostLayer
from videoxl.memory.kv_cache import SPARE_TOKENS, KVCache, PreallocatedLayer
from videoxl.memory.layout import Group
from videoxl.memory.question_room import let_go_of
from videoxl.memory.types import MemoryState
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.out_of_memory import fitting


@torch.inference_mode()
def trim(context: ReadContext, memory: MemoryState, *, start: float | None, end: float | None) -> MemoryState:
    """Return the state of a memory without some groups of frames; see :meth:`VideoMemory.trim`."""
    strategy = prefill_from_string(memory.prefill)
    if reason := context.config.traits.support(strategy).refuse_trim(strategy):
        raise ValueError(reason)
    groups = memory.groups
    first = sum(start is not None and group.end_s <= start for group in groups)
    last = sum(end is None or group.start_s < end for group in groups)
    if first >= last:
        raise ValueError(
            f"start={start}, end={end} leaves nothing of {groups[0].start_s:.1f} to {groups[-1].end_s:.1f} s"
        )
    head, moved = memory.prefix_length, groups[first].token_start
    closing = context.config.traits.tokens.closing
    if first and closing:  # it closes a group that is forgotten
        moved += len(context.chat_format.tokenize(closing))
    begin, stop = head + moved, head + groups[last - 1].token_end
    per_group = context.config.frames_per_group
    frames = slice(first * per_group, last * per_group)
    let_go_of(level.room for level in memory.coarse_kv.values())
    with fitting("when it copied what trimming leaves", "trim it earlier, or its end alone, which copies nothing"):
        cache = _without(context.model, memory.cache, head, begin, stop) if moved else memory.cache.fork()
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
        groups=(_begun(groups[first], moved), *(_moved(group, moved) for group in groups[first + 1 : last])),
        timestamps=memory.timestamps[frames],
        pending=pending,
        embeddings=embeddings,
        tracks=read_part(memory.tracks, groups[first].start_s, groups[last - 1].end_s),
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


def _begun(group: Group, tokens: int) -> Group:
    """The first group, moved to the begin of the video."""
    return replace(_moved(group, tokens), token_start=0)


def _moved(group: Group, tokens: int) -> Group:
    """Move a group ``tokens`` tokens to the front."""
    return replace(
        group,
        token_start=group.token_start - tokens,
        visual_start=group.visual_start - tokens,
        token_end=group.token_end - tokens,
    )


def _without(model: VideoXLForConditionalGeneration, cache: KVCache, head: int, begin: int, stop: int) -> KVCache:
    """Copy tokens ``[0, head)`` and ``[begin, stop)``; the latter move to the positions after the former.

    What waits in host memory stays there.
    """
    out, moved_by = KVCache([layer.empty(head + stop - begin + SPARE_TOKENS) for layer in cache.layers]), begin - head
    if cache.positions is not None:
        out.positions, moved_by = cache.positions.without(head, begin, stop)
    for number, layer in enumerate(cache.layers):
        (first_keys, first_values), (keys, values) = layer.span(0, head), layer.span(begin, stop)
        distance = torch.full((stop - begin,), moved_by, device=keys.device)
        moved = model.model.language_model.inverse_rope(keys, distance)
        keys, values = torch.cat([first_keys, moved], dim=2), torch.cat([first_values, values], dim=2)
        if layer.on_host:
            out.layers[number] = HostLayer.of(PreallocatedLayer.holding(keys, values))
        else:
            out.layers[number].keep(keys, values)
    return out
