"""The state of a memory, the values it consists of, and what a memory asks of the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, NamedTuple, Protocol, Unpack

import numpy as np
import torch
from annotated_types import Ge, Le

from videoxl.config import KVDtype
from videoxl.config_keywords import ExtendKeywords
from videoxl.cues import Track
from videoxl.memory.kv_cache import KVCache, Rope
from videoxl.memory.layout import Group
from videoxl.memory.model_id import ModelId
from videoxl.memory.pooling import CoarseKV
from videoxl.memory.positions import Grid
from videoxl.memory.quantised import Quantisation
from videoxl.settings import Count, CountOrZero, from_json

Cost = Annotated[float, Ge(0), Le(1e12)]
"""Seconds that something took or lasts."""


@dataclass(frozen=True)
class ReadStats:
    """What reading a video cost, and what was read. Sizes are in bytes, times in seconds.

    A memory file holds it as JSON (:meth:`to_dict`). Every field has a default: older files lack some of them.
    """

    frames: CountOrZero = 0
    video_seconds: Cost = 0.0
    visual_tokens: CountOrZero = 0
    memory_tokens: CountOrZero = 0
    memory_bytes: CountOrZero = 0
    window_ratios: tuple[Count, ...] = ()
    """Visual tokens per beacon in every window of Video-XL; empty for other models."""
    peak_gpu_bytes: CountOrZero | None = None
    seconds: Mapping[str, Cost] = field(default_factory=dict)
    """Seconds per phase: decode, vision, prefill."""
    sampling: str = ""
    source: str = ""
    digest: str | None = None
    """Content hash of the source, where it has one."""
    reader: str = ""
    still: bool = False
    """Whether the source was a single picture."""
    subtitles: CountOrZero | None = None
    """Number of cues read; None: no subtitles were given."""
    kv_dtype: KVDtype | None = None
    """What keys and values are rounded to while they are held; None: they are as the model computed them."""
    extended: CountOrZero = 0
    """How often the memory was extended."""

    def to_dict(self) -> dict[str, object]:
        """Convert to plain data for JSON. ``extended`` appears once the memory was extended, ``kv_dtype`` with one."""
        data: dict[str, object] = {**asdict(self), "seconds": dict(self.seconds)}
        for name in ("extended", "kv_dtype"):
            if not data[name]:
                del data[name]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> ReadStats:
        """Read what :meth:`to_dict` wrote. Unknown keys are ignored, missing ones take their defaults.

        Raises ``ValueError`` for something else than such a mapping.
        """
        return from_json(cls, json.dumps(data))


@dataclass(frozen=True)
class PendingFrames:
    """The last frames, which must be read again when more follow: those of an unfilled group or an unfilled window."""

    pixels_FHWC: np.ndarray
    """8-bit pictures, as the model was given them."""
    committed_tokens: int
    """Number of tokens at the start of the cache that stay as they are, whatever follows."""


@dataclass(frozen=True)
class FrameEmbeddings:
    """SigLIP embeddings of every frame of a memory."""

    features_FD: torch.Tensor
    """Unit vectors in float32, on the host."""
    model: str
    """Hub id or folder of the SigLIP model; empty: the one of the memory's model, or one without a name."""
    fingerprint: str
    """Fingerprint of its weights: only the same weights may embed the questions."""


class Features(NamedTuple):
    """Keys and values of the video in one layer, for use outside this package."""

    keys_KSE: torch.Tensor
    """Before rotary position embedding, so they carry no position."""
    values_KSE: torch.Tensor


@dataclass(frozen=True)
class MemoryState:
    """Everything a memory holds at one moment. It is never changed: extending or trimming makes another one.

    ``cache`` holds ``len(token_ids)`` tokens, keys rotated to the positions 0, 1, 2 ...: the system and user head, then
    the video. For every group of frames these are its timestamp and its visual tokens, or, where they were compressed,
    the beacons.
    """

    cache: KVCache
    token_ids: tuple[int, ...]
    """Ids of everything in the cache; visual tokens and beacons as placeholders."""
    prefix_length: int
    """Number of tokens before the video."""
    groups: tuple[Group, ...]
    """Time span of every group of frames, in order; its token offsets where they were not compressed."""
    timestamps: tuple[float, ...]
    """Time of every frame read, in seconds from the start of the video."""
    prefill: str
    """The strategy that read it, as ``str(strategy)``."""
    model_fingerprint: str
    """Fingerprint of the model that read it; questions of another model are refused."""
    usage: ReadStats = ReadStats()
    warnings: tuple[str, ...] = ()
    """What went wrong while reading, one sentence each."""
    pending: PendingFrames | None = field(default=None, repr=False, compare=False)
    """Frames that :meth:`VideoMemory.extend` reads again; None: every group and window is full."""
    embeddings: FrameEmbeddings | None = field(default=None, repr=False, compare=False)
    """Kept for ``relevance="siglip"``, where ``encode`` was asked to."""
    tracks: tuple[Track, ...] = field(default=(), repr=False)
    """Subtitles, speech and text on screen that were read with the frames: the cues of the part that is covered."""
    coarse_kv: dict[int, CoarseKV] = field(default_factory=dict, repr=False, compare=False)
    """Averages of the visual tokens, by the number averaged into one; computed when a question first needs them."""

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return self.cache.nbytes

    def without_cache(self) -> MemoryState:
        """Return the same state without keys and values, to be read without holding them."""
        return replace(self, cache=KVCache(0).placed(self.cache.positions), coarse_kv={})

    @property
    def grid(self) -> Grid | None:
        """Rows and columns of the visual tokens of a group, where positions say so."""
        if self.cache.positions is None:
            return None
        first, head = self.groups[0], self.prefix_length
        return self.cache.positions.grid(head + first.visual_start, head + first.token_end)

    @property
    def duration(self) -> float:
        """Seconds of video covered, from the first frame read to the end of the last group."""
        return self.groups[-1].end_s - self.groups[0].start_s


class MemoryOwner(Protocol):
    """The engine that made a memory, or that it was loaded for: whatever needs the model goes through it."""

    def extended(
        self,
        state: MemoryState,
        video: object,
        *,
        committed_cache: Callable[[], KVCache],
        **settings: Unpack[ExtendKeywords],
    ) -> MemoryState: ...
    def trimmed(self, state: MemoryState, *, start: float | None, end: float | None) -> MemoryState: ...
    def check_stored(self, state: MemoryState) -> None: ...
    def quantisations(self, kv_dtype: KVDtype) -> Sequence[Quantisation]: ...
    @property
    def rope(self) -> Rope: ...
    @property
    def model_id(self) -> ModelId: ...
    @property
    def layer_devices(self) -> Sequence[torch.device]: ...
