"""Whether a model can have made the memory that a file says it made."""

from __future__ import annotations

import torch

from videoxl.config import prefill_from_string
from videoxl.inference.prefill.choose import memory_tokens
from videoxl.inference.prompt import VisualSpan
from videoxl.memory.positions import positions_of
from videoxl.memory.types import MemoryState
from videoxl.model.configuration import VideoXLConfig


def _check_positions(config: VideoXLConfig, state: MemoryState) -> None:
    """Raise ``ValueError`` unless positions are there where they belong, and follow from ids and pictures."""
    positions, dimensions = state.cache.positions, config.traits.tokens.position_dimensions
    if (positions is not None) != (dimensions == 3):
        raise ValueError(f"a memory of {config.family} has positions in {dimensions} dimensions")
    if positions is None or state.grid is None:
        return
    visual = (config.video_token_id, config.image_token_id)
    made = positions_of(state.token_ids, visual, state.grid, 0)
    if not torch.equal(made, positions.held_3S):
        raise ValueError("positions are not those of the ids and pictures")


def check_stored(config: VideoXLConfig, state: MemoryState) -> None:
    """Raise ``ValueError`` for a state that a model of this configuration never makes, so that nothing relies on it."""
    strategy = prefill_from_string(state.prefill)
    supported = config.traits.support(strategy)
    known = range(config.vocab_size)
    if foreign := sorted({*state.token_ids} - {config.video_token_id, config.image_token_id} - {*known})[:3]:
        raise ValueError(f"ids such as {foreign} are beyond the vocabulary of {config.vocab_size}")
    _check_positions(config, state)
    if state.usage.still:
        return
    if state.grid is not None:
        rows, columns = state.grid
        config = config.with_picture(rows * config.token_side, columns * config.token_side)
    per_group, frames = config.frames_per_group, len(state.timestamps)
    if tuple(group.start_s for group in state.groups) != state.timestamps[::per_group]:
        raise ValueError(f"groups of {per_group} frames begin at other times than their frames")
    if any(group.token_end - group.visual_start != config.tokens_per_group for group in state.groups):
        raise ValueError(f"there are groups of other than {config.tokens_per_group} visual tokens")
    whole = VisualSpan((config.video_token_id,) * state.groups[-1].token_end, state.groups)
    count = memory_tokens(strategy, config, state.prefix_length, whole)
    if len(state.token_ids) != count:
        raise ValueError(f"there are {len(state.token_ids)} tokens, prefill {state.prefill} leaves {count}")
    pending = state.pending
    if pending is None or supported.refuse_extend(strategy):
        return
    size = config.picture_size
    if pending.pixels_FHWC.shape[1:] != (*size, 3):
        raise ValueError(f"frames to be read again are not of {size[1]} x {size[0]} pixels")
    if (frames - len(pending.pixels_FHWC)) % per_group:
        raise ValueError("frames to be read again begin within a group")
    whole_groups = (frames - len(pending.pixels_FHWC)) // per_group
    begin = state.groups[whole_groups].token_start
    before = VisualSpan(whole.ids[:begin], state.groups[:whole_groups])
    kept = memory_tokens(strategy, config, state.prefix_length, before) if whole_groups else state.prefix_length
    if pending.committed_tokens != kept:
        raise ValueError(f"{pending.committed_tokens} tokens are to stay, {whole_groups} whole groups leave {kept}")
