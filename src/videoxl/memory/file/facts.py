"""What a memory file says beside its keys and values: its JSON as typed values, and whether all of it fits together.

Checksums find accidents. These checks find files that were made by something else than this package, before anything
of them is used: every count that follows from the rest is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from videoxl.memory.file.format import MemoryFile
from videoxl.memory.layout import Group
from videoxl.memory.positions import Positions
from videoxl.memory.types import PendingFrames, ReadStats
from videoxl.settings import CountOrZero

LAST_SECOND = 1e11
"""No time is later: three thousand years, so that seconds since 1970 are fine."""
SMALL: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {
    "token_ids": (torch.int64, (None,)),
    "timestamps": (torch.float64, (None,)),
    "group_seconds": (torch.float64, (None, 2)),
    "group_tokens": (torch.int64, (None, 3)),
    "tail_pixels": (torch.uint8, (None, None, None, 3)),
    "siglip_features": (torch.float32, (None, None)),
    "tracks": (torch.uint8, (1, None)),
    "positions": (torch.int64, (3, None)),
}
"""Tensors that are not keys or values, with dtype and shape (None: any size above 0). Read when the file is opened."""
OPTIONAL = ("tail_pixels", "siglip_features", "tracks", "positions")


@dataclass(frozen=True)
class Siglip:
    """The SigLIP model behind ``siglip_features``."""

    model: str
    fingerprint: str


@dataclass(frozen=True)
class MemoryFacts:
    """The JSON under ``memory``."""

    prefill: str
    prefix_length: CountOrZero
    usage: ReadStats
    warnings: tuple[str, ...]
    held_dtype: Literal["float32", "bfloat16", "float16"]
    offloaded: bool
    settled_tokens: CountOrZero | None = None
    siglip: Siglip | None = None


@dataclass(frozen=True)
class StorageFacts:
    """The JSON under ``storage``."""

    dtype: str
    levels: dict[str, tuple[tuple[CountOrZero, CountOrZero], ...]]


def read_small(file: MemoryFile) -> dict[str, torch.Tensor]:
    """Read the small tensors. Raises ``ValueError`` for another dtype or shape than they have."""
    for name, (dtype, shape) in SMALL.items():
        if name not in file and name in OPTIONAL:
            continue
        spec = file.spec(name)
        sizes = [(want is None and have > 0) or have == want for have, want in zip(spec.shape, shape)]
        if spec.dtype != dtype or len(spec.shape) != len(shape) or not all(sizes):
            raise ValueError(f"{name} is {spec.dtype} of shape {spec.shape}")
    return {name: file.read(name) for name in SMALL if name in file}


def read_groups(seconds_G2: torch.Tensor, tokens_G3: torch.Tensor) -> tuple[Group, ...]:
    """Put groups together. Raises ``ValueError`` unless times ascend and each group begins where the last one ends."""
    check_times(seconds_G2[:, 0].numpy(), "groups begin")
    check_times(seconds_G2[:, 1].numpy(), "groups end")
    groups = [Group(*time, *place) for time, place in zip(seconds_G2.tolist(), tokens_G3.tolist(), strict=True)]
    for group in groups:
        if group.end_s < group.start_s or not group.token_start <= group.visual_start < group.token_end:
            raise ValueError(f"there cannot be a group like {group}")
    if groups[0].token_start != 0 or any(a.token_end != b.token_start for a, b in pairwise(groups)):
        raise ValueError("groups do not follow one another")
    return tuple(groups)


def check_times(times: np.ndarray, what: str) -> None:
    """Raise ``ValueError`` unless times are finite, not negative, and ascend."""
    if not (np.isfinite(times).all() and (times >= 0).all() and (times < LAST_SECOND).all()):
        raise ValueError(f"{what} at times that are none: {_short(times)}")
    if (np.diff(times) < 0).any():
        raise ValueError(f"{what} at times that do not ascend: {_short(times)}")


def _short(times: np.ndarray) -> str:
    return ", ".join(f"{time:g}" for time in times[:5]) + (" ..." if len(times) > 5 else "")


def check_tokens(facts: MemoryFacts, ids: Sequence[int], groups: Sequence[Group], video_token_id: int) -> None:
    """Raise ``ValueError`` unless ids and groups agree; after compression, unless there are fewer ids than tokens."""
    head = facts.prefix_length
    if not 0 < head < len(ids):
        raise ValueError(f"the text before the video has {head} of {len(ids)} tokens")
    if min(ids) < 0 or max(ids) >= 1 << 31:
        raise ValueError(f"ids go from {min(ids)} to {max(ids)}")
    whole = head + groups[-1].token_end
    if len(ids) > whole:
        raise ValueError(f"there are {len(ids)} ids for {whole} tokens")
    if len(ids) == whole and not facts.usage.still:
        visual = np.asarray(ids) == video_token_id
        expected = np.zeros(whole, dtype=bool)
        for group in groups:
            expected[head + group.visual_start : head + group.token_end] = True
        if (visual != expected).any():
            raise ValueError("visual tokens are at other places than the groups say")


def check_usage(usage: ReadStats, *, frames: int, groups: Sequence[Group], tokens: int, memory_bytes: int) -> None:
    """Raise ``ValueError`` where statistics contradict what is in the file."""
    facts = {
        "frames": frames,
        "video_seconds": groups[-1].end_s - groups[0].start_s,
        "visual_tokens": sum(group.token_end - group.visual_start for group in groups),
        "memory_tokens": tokens,
        "memory_bytes": memory_bytes,
    }
    for name, fact in facts.items():
        if getattr(usage, name) != fact:
            raise ValueError(f"usage.{name} is {getattr(usage, name)}, what is in the file makes it {fact}")


def read_positions(held_3S: torch.Tensor | None, tokens: int) -> Positions | None:
    """Positions in three dimensions; None: a token's position is its index. Raises ``ValueError`` for others' or bad
    ones."""
    if held_3S is None:
        return None
    if held_3S.shape[1] != tokens or int(held_3S.min()) < 0 or int(held_3S.max()) >= tokens:
        raise ValueError(f"positions are not those of {tokens} tokens")
    return Positions.of(held_3S)


def pending_frames(
    pixels: torch.Tensor | None, facts: MemoryFacts, groups: Sequence[Group], *, frames: int
) -> PendingFrames | None:
    """What :meth:`VideoMemory.extend` reads again. Raises ``ValueError`` where there are more frames than were read."""
    committed = facts.settled_tokens
    if (pixels is None) != (committed is None):
        raise ValueError("tail_pixels and settled_tokens do not belong together")
    if pixels is None or committed is None:
        return None
    most = facts.prefix_length + groups[-1].token_end  # after compression there are fewer tokens
    if len(pixels) > frames or not facts.prefix_length <= committed <= most:
        raise ValueError(f"{committed} of {most} tokens stay, and {len(pixels)} of {frames} frames are read again")
    return PendingFrames(pixels.numpy(), committed)
